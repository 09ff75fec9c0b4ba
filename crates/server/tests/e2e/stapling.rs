//! OCSP answers out of files, as `openssl ocsp` makes them: shown with the certificate that they are about, and none but good ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_testkit::sessions::{Able, Sessions};
use tidegate_testkit::tls::certificate;
use tidegate_testkit::{Gate, Origin, Reply, until};

use crate::{BINARY, app, control};

/// A folder with certificates for `a.test` and `b.test`, each its own authority, and a configuration that shows an answer about
/// the first.
struct Scene {
    folder: PathBuf,
    config: String,
    _origin: Origin,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let origin = Origin::start(|_| Reply::Status(200, "hello".into()));
        let folder = Gate::folder(name);
        let mut config = app(&[origin.address], "", "");
        for letter in ["a", "b"] {
            let [cert, key] = ["cert", "key"].map(|file| folder.join(format!("{letter}-{file}.pem")));
            let _ = certificate(&[&format!("{letter}.test")], &cert, &key);
            config += &format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
            if letter == "a" {
                config += &format!("ocsp = \"{}\"\n", folder.join("a.ocsp").display());
            }
        }
        Scene { folder, config, _origin: origin }
    }

    /// What an authority says of its certificate: it is good (`V`) or revoked (`R`), and that holds for so many days.
    fn answer(&self, letter: &str, state: char, days: u32) -> Vec<u8> {
        let [cert, key] = ["cert", "key"].map(|file| format!("{letter}-{file}.pem"));
        let serial = openssl(&self.folder, &["x509", "-noout", "-serial", "-in", &cert]);
        let serial = serial.trim().strip_prefix("serial=").expect("a serial number");
        let revoked = if state == 'R' { "260101000000Z" } else { "" };
        let line = format!("{state}\t490101000000Z\t{revoked}\t{serial}\tunknown\t/CN=x\n");
        std::fs::write(self.folder.join("index"), line).unwrap();
        let days = days.to_string();
        let by = ["-index", "index", "-CA", &cert, "-rsigner", &cert, "-rkey", &key];
        let about = ["-issuer", &cert, "-cert", &cert, "-no_nonce", "-ndays", &days, "-respout", "made"];
        openssl(&self.folder, &[&["ocsp"][..], &by, &about].concat());
        std::fs::read(self.folder.join("made")).unwrap()
    }

    /// This is what stands in the file from now on.
    fn put(&self, answer: &[u8]) {
        std::fs::write(self.folder.join("beside"), answer).unwrap();
        std::fs::rename(self.folder.join("beside"), self.folder.join("a.ocsp")).unwrap();
    }

    fn gate(&self, name: &str) -> Gate {
        Gate::start_listening(BINARY, name, "https = [\"127.0.0.1:0\"]", &self.config)
    }
}

/// What OpenSSL says to that.
fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// What is stapled for a client that has no session.
fn stapled(gate: &Gate, able: Able, name: &str) -> Vec<u8> {
    Sessions::new(able).visit(gate.address, name).expect("a handshake").stapled
}

#[test]
fn an_answer_is_shown_with_the_certificate_that_it_is_about_and_no_other() {
    let scene = Scene::new("stapled");
    let good = scene.answer("a", 'V', 7);
    scene.put(&good);
    let gate = scene.gate("stapled");
    for able in [Able::Tls13, Able::Tickets12] {
        assert_eq!(stapled(&gate, able, "a.test"), good, "{able:?}");
        assert!(stapled(&gate, able, "b.test").is_empty(), "{able:?}");
    }
    let address = gate.address.to_string();
    let said = openssl(
        &scene.folder,
        &["s_client", "-connect", &address, "-servername", "a.test", "-CAfile", "a-cert.pem", "-status"],
    );
    assert!(
        said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"),
        "{said}"
    );
}

#[test]
fn an_answer_is_read_again_and_one_that_is_of_no_use_is_not_shown() {
    let scene = Scene::new("stapled-anew");
    let [good, better] = [7, 8].map(|days| scene.answer("a", 'V', days));
    scene.put(&good);
    let gate = scene.gate("stapled-anew");
    assert_eq!(stapled(&gate, Able::Tls13, "a.test"), good);
    scene.put(&scene.answer("b", 'V', 7));
    until("another's is refused", || control(&gate, "/status").contains("it is about another certificate"));
    assert_eq!(stapled(&gate, Able::Tls13, "a.test"), good, "a bad file replaces none");
    scene.put(&better);
    until("it is read again", || stapled(&gate, Able::Tls13, "a.test") == better);
    scene.put(&scene.answer("a", 'R', 7));
    until("nobody is shown that it is revoked", || stapled(&gate, Able::Tls13, "a.test").is_empty());
}

#[test]
fn a_file_that_is_no_answer_is_a_problem_of_the_configuration() {
    let scene = Scene::new("stapled-bad");
    scene.put(b"no answer");
    let file = scene.folder.join("bad.toml");
    std::fs::write(&file, format!("{}[listen]\nhttps = [\"127.0.0.1:0\"]\n", scene.config)).unwrap();
    let done = Command::new(BINARY).args(["check", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("a.ocsp: it is no OCSP answer (DER)") && said.contains("ocsp = "), "{said}");
}
