//! End to end: the real binary, real sockets.

mod exchanges;
mod listeners;
mod robustness;
mod running;
mod wire;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

fn gate(name: &str, config: &str) -> tidegate_testkit::Gate {
    tidegate_testkit::Gate::start(BINARY, name, config)
}

/// One upstream with these endpoints, and one route to it with these further lines.
fn app(endpoints: &[std::net::SocketAddr], upstream: &str, route: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "workers = 2\n[upstream.app]\nendpoints = [{}]\n{upstream}\n[[route]]\nname = \"all\"\nupstream = \"app\"\n{route}\n",
        endpoints.join(", ")
    )
}
