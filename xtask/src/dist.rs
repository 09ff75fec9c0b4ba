//! `cargo xtask dist`: everything that a release consists of, into `dist/`: the binary, man pages, completions, the list of what
//! it is made of (SBOM), an archive, a Debian package where `cargo-deb` is there, and the digests of all.
//!
//! The same commit, toolchain and target give the same bytes: paths of the machine are taken out, and every time is that of the
//! commit (or `SOURCE_DATE_EPOCH`). Nothing is signed or published here.

use std::path::{Path, PathBuf};
use std::process::Command;

mod sbom;

/// How it is called.
pub const USAGE: &str = "cargo xtask dist [--profile NAME] [--target TRIPLE] [--binary-only] [--no-deb]";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    profile: String,
    target: Option<String>,
    binary_only: bool,
    deb: bool,
}

impl Order {
    fn read(arguments: &[String]) -> Result<Order, String> {
        let mut order = Order { profile: "release".to_owned(), target: None, binary_only: false, deb: true };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--profile" => order.profile = value()?,
                "--target" => order.target = Some(value()?),
                "--binary-only" => order.binary_only = true,
                "--no-deb" => order.deb = false,
                _ => return Err(format!("{word}: {USAGE}")),
            }
        }
        Ok(order)
    }

    /// Where cargo leaves the binary, below its own directory.
    fn built(&self) -> PathBuf {
        let profile = if self.profile == "dev" { "debug" } else { &self.profile };
        let folder = self.target.as_ref().map_or_else(PathBuf::new, PathBuf::from);
        folder.join(profile).join("tidegate")
    }
}

/// Makes it.
///
/// # Errors
/// What failed, in words.
pub fn dist(arguments: &[String], root: &Path) -> Result<(), String> {
    let order = Order::read(arguments)?;
    let dist = root.join("dist");
    let epoch = epoch(root)?;
    let built = build(&order, root, &epoch)?;
    if dist.exists() {
        std::fs::remove_dir_all(&dist).map_err(|error| format!("{}: {error}", dist.display()))?;
    }
    std::fs::create_dir_all(&dist).map_err(|error| format!("{}: {error}", dist.display()))?;
    let binary = dist.join("tidegate");
    // Names of functions stay, for traces of panics; what only a debugger reads goes.
    if run(Command::new("strip").args(["--strip-debug", "-o"]).args([&binary, &built])).is_err() {
        std::fs::copy(&built, &binary).map_err(|error| format!("{}: {error}", built.display()))?;
    }
    println!("dist/tidegate");
    if order.binary_only {
        return Ok(());
    }
    run(Command::new(&binary).args(["gen", "--manual"]).arg(&dist))?;
    let target = order.target.clone().unwrap_or_else(host);
    let version = version(root)?;
    sbom::write(root, &target, &dist.join(format!("tidegate-{version}.cdx.json")), &epoch)?;
    let name = format!("tidegate-{version}-{target}");
    archive(root, &dist, &name, &epoch)?;
    if order.deb {
        package(&order, root, &dist, &epoch)?;
    }
    digests(&dist)
}

fn build(order: &Order, root: &Path, epoch: &str) -> Result<PathBuf, String> {
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    let places = [(root.display().to_string(), "/tidegate"), (home, "/cargo")];
    let flags = |option: &str| {
        let of = |(from, to): &(String, &str)| format!("{option}={from}={to}");
        places.iter().filter(|(from, _)| !from.is_empty()).map(of).collect::<Vec<_>>()
    };
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args(["build", "--locked", "-p", "tidegate", "--profile", &order.profile]).current_dir(root);
    // A path with a blank in it stays one flag.
    let mut rust = flags("--remap-path-prefix");
    rust.extend(
        std::env::var("RUSTFLAGS")
            .into_iter()
            .flat_map(|given| given.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()),
    );
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}")).env_remove("RUSTFLAGS");
    let given = std::env::var("CFLAGS").unwrap_or_default();
    cargo.env("CFLAGS", format!("{given} {}", flags("-ffile-prefix-map").join(" ")).trim());
    cargo.env("SOURCE_DATE_EPOCH", epoch);
    if let Some(target) = &order.target {
        cargo.args(["--target", target]);
    }
    run(&mut cargo)?;
    let target = std::env::var("CARGO_TARGET_DIR").map_or_else(|_| root.join("target"), PathBuf::from);
    Ok(target.join(order.built()))
}

/// The archive: binary, man pages, completions, units, an example, the list of what it is made of.
fn archive(root: &Path, dist: &Path, name: &str, epoch: &str) -> Result<(), String> {
    let folder = dist.join(name);
    let copy = |from: &Path, to: &str| {
        let to = folder.join(to);
        std::fs::create_dir_all(to.parent().unwrap_or(&folder)).map_err(|error| error.to_string())?;
        std::fs::copy(from, &to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
    };
    copy(&dist.join("tidegate"), "bin/tidegate")?;
    for (from, to) in [
        ("LICENSE", "LICENSE"),
        ("README.md", "README.md"),
        ("CHANGELOG.md", "CHANGELOG.md"),
        ("packaging/etc/tidegate.toml", "etc/tidegate.toml"),
        ("packaging/etc/logrotate", "etc/logrotate"),
        ("packaging/systemd/tidegate.service", "systemd/tidegate.service"),
        ("packaging/systemd/tidegate.sysusers", "systemd/tidegate.sysusers"),
    ] {
        copy(&root.join(from), to)?;
    }
    for part in ["man", "completions"] {
        for file in files(&dist.join(part))? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            copy(&file, &format!("{part}/{name}"))?;
        }
    }
    let archive = dist.join(format!("{name}.tar.gz"));
    let packed = run(Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,go=rX"])
        .arg(format!("--mtime=@{epoch}"))
        // `gzip -n` writes neither a name nor a time.
        .args(["--use-compress-program=gzip -9n", "-cf"])
        .arg(&archive)
        .arg("-C")
        .args([dist, Path::new(name)]));
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    packed.map(|()| println!("dist/{name}.tar.gz"))
}

fn package(order: &Order, root: &Path, dist: &Path, epoch: &str) -> Result<(), String> {
    if Command::new("cargo-deb").arg("--version").output().is_err() {
        println!("no Debian package: `cargo install cargo-deb` makes one possible");
        return Ok(());
    }
    let mut deb = Command::new("cargo");
    deb.args(["deb", "-p", "tidegate", "--no-build", "--no-strip", "--profile", &order.profile])
        .args(["--output"])
        .arg(dist)
        .env("SOURCE_DATE_EPOCH", epoch)
        .current_dir(root);
    if let Some(target) = &order.target {
        deb.args(["--target", target]);
    }
    run(&mut deb)
}

fn digests(dist: &Path) -> Result<(), String> {
    let mut names: Vec<String> = files(dist)?
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_str()?.to_owned()))
        .filter(|name| name != "SHA256SUMS")
        .collect();
    names.sort();
    let told = Command::new("sha256sum").args(&names).current_dir(dist).output();
    let told = told.map_err(|error| format!("sha256sum: {error}"))?;
    std::fs::write(dist.join("SHA256SUMS"), &told.stdout).map_err(|error| error.to_string())?;
    print!("{}", String::from_utf8_lossy(&told.stdout));
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    found.sort();
    Ok(found)
}

/// The time that everything is of: the commit's.
fn epoch(root: &Path) -> Result<String, String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(given);
    }
    output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root))
}

fn version(root: &Path) -> Result<String, String> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).map_err(|error| error.to_string())?;
    let found = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    found.map(str::to_owned).ok_or_else(|| "Cargo.toml tells no version".to_owned())
}

fn host() -> String {
    let told = output(Command::new("rustc").arg("-vV")).unwrap_or_default();
    told.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("unknown").to_owned()
}

fn output(command: &mut Command) -> Result<String, String> {
    let told = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !told.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&told.stderr)));
    }
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_or_refused() {
        let read = |text: &str| Order::read(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let order = read("--target x86_64-unknown-linux-musl --no-deb").unwrap();
        assert_eq!(order.built(), Path::new("x86_64-unknown-linux-musl/release/tidegate"));
        assert!(!order.deb && !order.binary_only);
        assert_eq!(read("--profile dev").unwrap().built(), Path::new("debug/tidegate"));
        assert!(read("--profile").is_err() && read("--fast").is_err());
    }

    #[test]
    fn an_archive_is_the_same_whenever_it_is_made() {
        let root = crate::root();
        let dist = std::env::temp_dir().join(format!("tidegate-dist-{}", std::process::id()));
        let make = || {
            std::fs::create_dir_all(dist.join("man")).unwrap();
            std::fs::create_dir_all(dist.join("completions")).unwrap();
            std::fs::write(dist.join("tidegate"), "binary").unwrap();
            std::fs::write(dist.join("man/tidegate.1"), "page").unwrap();
            archive(&root, &dist, "tidegate-0-x", "1700000000").unwrap();
            let bytes = std::fs::read(dist.join("tidegate-0-x.tar.gz")).unwrap();
            std::fs::remove_dir_all(&dist).unwrap();
            bytes
        };
        let first = make();
        assert!(first.len() > 100);
        assert_eq!(first, make());
    }
}
