//! Where a benchmark works: a folder under the target directory with certificates, and what this machine is.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::configs;
use super::peers::{first_line, package};
use super::process::Server;
use super::requests;

/// The folder and what all servers share in it.
pub struct Place {
    pub folder: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub pair: PathBuf,
    /// The configuration of the clients' OpenSSL.
    pub openssl: PathBuf,
    /// SHA-256 of the API keys, in their order.
    pub digests: Vec<String>,
}

impl Place {
    pub fn prepare(target: &Path) -> Result<Self, String> {
        let folder = target.join("bench");
        let place = Self {
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            pair: folder.join("pair.pem"),
            openssl: folder.join("openssl.cnf"),
            digests: Vec::new(),
            folder,
        };
        std::fs::create_dir_all(&place.folder).map_err(|error| error.to_string())?;
        place.certificate()?;
        let ciphers = "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = offered\n[offered]\n\
                       MinProtocol = TLSv1.3\nCiphersuites = TLS_AES_128_GCM_SHA256\nGroups = X25519\n";
        std::fs::write(&place.openssl, ciphers).map_err(|error| error.to_string())?;
        let digests = place.digest()?;
        Ok(Self { digests, ..place })
    }

    /// A certificate for P-256, which all peers can do.
    fn certificate(&self) -> Result<(), String> {
        let openssl = package("openssl", "openssl")?;
        let made = Command::new(openssl)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "30", "-subj", "/CN=bench.test", "-addext", "subjectAltName=IP:127.0.0.1"])
            .arg("-keyout")
            .arg(&self.key)
            .arg("-out")
            .arg(&self.cert)
            .output()
            .map_err(|error| format!("openssl: {error}"))?;
        if !made.status.success() {
            return Err(format!("openssl: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let read = |path| std::fs::read_to_string(path).map_err(|error| error.to_string());
        let pair = read(&self.cert)? + &read(&self.key)?;
        std::fs::write(&self.pair, pair).map_err(|error| error.to_string())
    }

    /// By `sha256sum`, so that this command needs no dependency of its own.
    fn digest(&self) -> Result<Vec<String>, String> {
        let folder = self.folder.join("keys");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut files = Vec::new();
        for tenant in 0..requests::KEYS {
            let file = folder.join(format!("{tenant:04}"));
            std::fs::write(&file, requests::key(tenant)).map_err(|error| error.to_string())?;
            files.push(file);
        }
        let output =
            Command::new("sha256sum").args(files).output().map_err(|error| format!("sha256sum: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Starts the origin, on the core of the load generators.
    pub fn origin(&self) -> Result<Server, String> {
        let folder = self.folder.join("origin");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, configs::origin(&folder)).map_err(|error| error.to_string())?;
        let nginx = package("nginx", "nginx").map_err(|why| format!("nginx is the origin: {why}"))?;
        let arguments = ["-c".to_owned(), config.display().to_string()];
        Server::start("1", &nginx, &arguments, &folder.join("output.log"))
    }
}

/// The machine and the tools, for the report.
#[derive(Debug, Default)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_gib: u64,
    /// File descriptors that a process may have.
    pub files_max: usize,
    /// Tools and their versions.
    pub tools: Vec<String>,
}

impl Machine {
    pub fn describe() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let limits = read("/proc/self/limits");
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
        let tools = [("wrk", "-v"), ("h2load", "--version"), ("rustc", "--version")]
            .iter()
            .filter_map(|(tool, argument)| first_line(Path::new(tool), argument).ok())
            .map(|line| line.split(" Copyright").next().unwrap_or_default().to_owned());
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 20,
            files_max: files.split_whitespace().next().and_then(|limit| limit.parse().ok()).unwrap_or(1024),
            tools: tools.collect(),
        }
    }
}
