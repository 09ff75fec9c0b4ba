//! What goes on in the new process while a slow request keeps the store in the old one.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use tidegate_testkit::{Gate, Origin, ask, connect, read_answer, until};

use super::stored::post;
use super::{own_binary, status};
use crate::deferred::Data;
use crate::upstreams::{Switch, holding};

fn config(store: &str, origin: &Origin) -> String {
    format!(
        "workers = 2\n[store]\nurl = \"{store}\"\n[tenants]\nfrom = [{{ address = \"client\" }}]\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[queue.later]\nupstream = \"app\"\n\
         [[route]]\nname = \"held\"\npath = \"/held\"\nupstream = \"app\"\nidempotency = {{}}\ndeadline = \"60s\"\n\
         [[route]]\nname = \"pay\"\npath = \"/pay\"\nupstream = \"app\"\nidempotency = {{}}\ndeadline = \"300ms\"\n\
         [[route]]\nname = \"later\"\npath = \"/later\"\nupstream = \"app\"\ndefer = \"always\"\nqueue = \"later\"\ndeadline = \"300ms\"\n\
         [[route]]\nname = \"shop\"\npath = \"/shop\"\nupstream = \"app\"\n",
        origin.address
    )
}

fn sent(address: SocketAddr, path: &str, name: &str) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(&post(path, name)).unwrap();
    stream
}

#[test]
fn who_needs_the_store_waits_within_its_deadline_and_maintenance_holds() {
    let released = Switch::default();
    let origin = holding("made", &released);
    let data = Data::new("upgrade-waits");
    let binary = own_binary("upgrade-waits");
    let config = config(&format!("sqlite:{}", data.0.display()), &origin);
    let mut gate = Gate::start(binary.to_str().unwrap(), "upgrade-waits", &config);
    let ordered = std::process::Command::new(&binary)
        .args(["maintenance", "on", "--route", "shop", "--control"])
        .arg(format!("unix:{}", Gate::folder("upgrade-waits").join("control.sock").display()))
        .output()
        .unwrap();
    assert!(ordered.status.success(), "{ordered:?}");
    let mut held = sent(gate.address, "/held", "slow");
    until("the slow one is under way", || origin.recorded().len() == 1);
    gate.upgrade().expect("the new one serves");
    // All of this while the old process has the store.
    for _ in 0..20 {
        assert_eq!(ask(gate.address, "GET /shop", "").status, 503, "what was ordered holds");
    }
    let late = read_answer(&mut sent(gate.address, "/pay", "hasty"));
    assert_eq!(late.status, 503, "{}", late.body);
    assert!(late.body.contains("store.unavailable"), "{}", late.body);
    let late = read_answer(&mut sent(gate.address, "/later", "hasty"));
    assert!(late.status == 504 && late.body.contains("deadline.exceeded"), "{}", late.body);
    let made = origin.recorded();
    assert!(made.iter().all(|one| !one.head.starts_with("POST /pay")), "nothing was sent");
    released.set(true);
    assert_eq!(read_answer(&mut held).status, 200);
    until("the key is free again", || read_answer(&mut sent(gate.address, "/pay", "hasty")).status == 200);
    assert_eq!(gate.wait(), Some(0));
    let made = origin.recorded();
    assert_eq!(made.iter().filter(|one| one.head.starts_with("POST /pay")).count(), 1);
    assert_eq!(ask(gate.address, "GET /shop", "").status, 503);
    assert_eq!(status(&gate)["store"]["state"], "serving");
}
