//! What is told on a line, and where there is nothing to tell on none.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{cell, list, mebibytes, of};

/// Processes that another has taken over from and that have not ended, a line each.
pub(super) fn elders(draining: &Value) -> String {
    let one = |elder: &Value| {
        format!(
            "process {}, of {}, was taken over from and finishes {} connections\n",
            elder["pid"],
            cell(&elder["since"]),
            elder["connections"]
        )
    };
    list(draining).map(one).collect()
}

/// How the process stands, on one line.
pub(super) fn load(load: &Value) -> String {
    let shed = |by: &Value| by["shedding"].as_str().is_some_and(|stage| stage != "calm");
    let stage = |by: &Value| cell(&by["shedding"]);
    let mut told = format!(
        "load {}, memory {}, bodies {}, open files {}",
        cell(&load["level"]),
        of(mebibytes(&load["memory_bytes"]), mebibytes(&load["memory_limit"])),
        of(mebibytes(&load["held_bytes"]), mebibytes(&load["held_limit"])),
        of(cell(&load["open_files"]), cell(&load["open_files_limit"])),
    );
    let late = list(&load["cores"]).filter_map(|core| core["lag_ms"].as_f64()).fold(0.0, f64::max);
    if late >= 1.0 {
        told += &format!(", late by {late:.0} ms");
    }
    if shed(load) {
        told += &format!("\nshort of memory, refusing: {}", stage(load));
    }
    for (number, core) in list(&load["cores"]).enumerate().filter(|(_, core)| shed(core)) {
        told += &format!("\ncore {number} is short of time, refusing: {}", stage(core));
    }
    told + "\n"
}

/// Certificates that are ordered, on one line, and those that could not be; nothing where none are.
pub(super) fn certificates(told: &Value) -> String {
    if told.is_null() {
        return String::new();
    }
    let mut lines = format!(
        "certificates {} configured, {} in memory, {} issued, {} orders failed\n",
        list(&told["configured"]).count(),
        told["in_memory"],
        told["orders"]["issued"],
        told["orders"]["failed"],
    );
    for one in list(&told["configured"]).filter(|one| one["failures"] != 0) {
        lines += &format!(
            "no new certificate for {} ({} until {}): {}\n",
            cell(&one["name"]),
            if one["not_after"].is_null() { "none" } else { "the old one serves" },
            cell(&one["not_after"]),
            cell(&one["error"]),
        );
    }
    lines
}

/// The cache's disk tier, on one line; nothing where there is none.
pub(super) fn disk(disk: &Value) -> String {
    if disk.is_null() {
        return String::new();
    }
    let why = disk["error"].as_str().map(|_| format!(" ({})", cell(&disk["error"]))).unwrap_or_default();
    format!(
        "cache on disk {} {}{why}, {}, {} answers, {} hits, {} misses, {} dropped\n",
        cell(&disk["path"]),
        cell(&disk["state"]),
        of(mebibytes(&disk["bytes"]), mebibytes(&disk["size_limit"])),
        disk["answers"],
        disk["hits"],
        disk["misses"],
        disk["dropped"],
    )
}

/// What is cached, on one line; nothing, where nothing is.
pub(super) fn cached(cache: &Value) -> String {
    if cache["answers"].as_u64().unwrap_or_default() == 0 {
        return String::new();
    }
    format!(
        "cache {} of {}, {} answers, {} evicted, {} purges\n",
        mebibytes(&cache["memory_bytes"]),
        mebibytes(&cache["memory_limit"]),
        cache["answers"],
        cache["evicted"],
        cache["purged"],
    )
}

/// The nodes that ask each other, on one line; nothing where they do not.
pub(super) fn cluster(cluster: &Value) -> String {
    if cluster.is_null() {
        return String::new();
    }
    let nodes = || list(&cluster["nodes"]);
    let away: Vec<String> =
        nodes().filter(|node| node["state"] == "away").map(|node| cell(&node["name"])).collect();
    let away = if away.is_empty() { String::new() } else { format!(", away: {}", away.join(" ")) };
    let asked = &cluster["asked"];
    let in_vain: u64 = ["away", "late", "refused", "old"].iter().filter_map(|one| asked[*one].as_u64()).sum();
    format!(
        "cluster {} of {} nodes{away}, homes: asked {}, in vain {in_vain}, answered {}\n",
        cell(&cluster["self"]),
        nodes().count(),
        asked["answered"],
        cluster["answered"],
    )
}

/// Which shards' deliveries are made here and by whom the others', on one line; nothing where all are made here.
pub(super) fn shards(shards: &Value) -> String {
    let all = || list(shards);
    let here: Vec<String> = all().filter(|one| one["here"] == true).map(|one| cell(&one["shard"])).collect();
    if here.len() == all().count() {
        return String::new();
    }
    let mut told = format!("shards {} of {} here", here.len(), all().count());
    let others: BTreeSet<String> =
        all().filter(|one| one["here"] != true).map(|one| cell(&one["node"])).collect();
    for node in others {
        let its = all().filter(|one| one["here"] != true && cell(&one["node"]) == node);
        let its: Vec<String> = its.map(|one| cell(&one["shard"])).collect();
        let who = if node == "-" { "nobody" } else { &node };
        told += &format!("; {who} has {}", its.join(" "));
    }
    told + "\n"
}

/// Where nodes meet, on one line; nothing where they do not.
pub(super) fn redis(redis: &Value) -> String {
    if redis.is_null() {
        return String::new();
    }
    let why = redis["error"].as_str().map(|_| format!(" ({})", cell(&redis["error"]))).unwrap_or_default();
    let purges = &redis["purges"];
    format!(
        "redis {} {}{why}, purges: {} sent, {} read, {} waiting\n",
        cell(&redis["address"]),
        cell(&redis["state"]),
        purges["sent"],
        purges["read"],
        purges["waiting"],
    )
}
