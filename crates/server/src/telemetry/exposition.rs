//! All metrics. Every one stands once, in [`METRICS`], with its type, labels and meaning;
//! `docs/metrics.md` is made of that table.

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The labels of its samples, in their order; a histogram's buckets have `le` besides.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:literal, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, kind: $kind, labels: &$labels, help: $help };
        )*
        /// All metrics, in the order of the documentation.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    REQUESTS = "tidegate_requests_total", "counter", ["route", "class"], "Exchanges settled, by route and class of status. `none`: no status was told, as the client left first. An empty route: none matched.";
    SECONDS = "tidegate_request_seconds", "histogram", ["route"], "From a request's head to its response's last byte.";
    RECEIVED = "tidegate_request_body_bytes_total", "counter", ["route"], "Request body bytes received.";
    SENT = "tidegate_response_body_bytes_total", "counter", ["route"], "Response body bytes sent.";
    CLIENT_GONE = "tidegate_client_gone_total", "counter", ["route"], "Exchanges that the client left before their end.";
    COMPRESSED_PLAIN = "tidegate_compressed_plain_bytes_total", "counter", ["route", "coding"], "Response body bytes before they were compressed, by what they were compressed in.";
    COMPRESSED = "tidegate_compressed_bytes_total", "counter", ["route", "coding"], "Response body bytes sent that Tidegate has compressed, by coding.";
    CACHE_REQUESTS = "tidegate_cache_requests_total", "counter", ["route", "outcome"], "Exchanges on cached routes by what the cache did: `hit`; `stale` (served, though no longer fresh); `revalidated` (the upstream said 304); `collapsed` (another one's answer); `miss`; `bypass`; and `refresh` and `slices` (of a large answer, that were missing), which no client asked for and no other metric of routes counts.";
    CACHE_BYTES = "tidegate_cache_bytes", "gauge", [], "Bytes that stored answers take in memory.";
    CACHE_BYTES_MAX = "tidegate_cache_limit_bytes", "gauge", [], "The most they may take: `[cache] memory`, at most half of what the process may take.";
    CACHE_ANSWERS = "tidegate_cache_answers", "gauge", [], "Answers stored in memory.";
    CACHE_EVICTED = "tidegate_cache_evicted_total", "counter", [], "Answers that had to go from memory for want of room.";
    CACHE_COMING = "tidegate_cache_coming_bytes", "gauge", [], "Bytes of answers that are on their way into the cache.";
    CACHE_AWAITED = "tidegate_cache_awaited", "gauge", [], "Requests to upstreams whose answers others may wait for.";
    CACHE_PURGED = "tidegate_cache_purged_total", "counter", [], "Names that were purged on this node.";
    KEYS = "tidegate_idempotency_total", "counter", ["route", "outcome"], "Exchanges with an idempotency key by what became of it: `first` (made, and its answer recorded), `replayed` (told what was recorded), `joined` (waited for the first, and was told the same), `released` (had no effect: the key is free again), `unkept` (made, and its answer not kept), `unknown` (sent, and not answered), `unrecorded` (answered, but the store could not be told).";
    STORE_UP = "tidegate_store_up", "gauge", [], "1: the store's last write went well. Only where `[store]` is configured.";
    STORE_RECORDS = "tidegate_store_records", "gauge", [], "Records in the store. Only where `[store]` is configured.";
    STORE_BYTES = "tidegate_store_bytes", "gauge", [], "Bytes that they count for. Only where `[store]` is configured.";
    STORE_BYTES_MAX = "tidegate_store_limit_bytes", "gauge", [], "The most bytes of its database: `[store] size`. Only where `[store]` is configured.";
    STORE_WAITING = "tidegate_store_waiting", "gauge", [], "Commands that wait for the store's writing thread. Only where `[store]` is configured.";
    STORE_COMMITS = "tidegate_store_commits_total", "counter", [], "Transactions that the store has written, an fsync each. Only where `[store]` is configured.";
    STORE_COMMANDS = "tidegate_store_commands_total", "counter", ["outcome"], "Commands to the store: `done`, `failed`. Only where `[store]` is configured.";
    STORE_SWEPT = "tidegate_store_swept_total", "counter", [], "Records that came to their end and were removed. Only where `[store]` is configured.";
    QUEUE_DELIVERIES = "tidegate_queue_deliveries", "gauge", ["queue", "state"], "Deliveries by how far they have come: `blocked`, `scheduled`, `ready`, `leased`, and those that have ended and are kept: `delivered`, `dead`, `cancelled`. Only where there is a queue.";
    QUEUE_OLDEST = "tidegate_queue_oldest_seconds", "gauge", ["queue"], "For how long the oldest that may be begun has waited. Only where there is a queue.";
    QUEUE_UNDER_WAY = "tidegate_queue_under_way", "gauge", ["queue"], "Attempts, or leases, under way. Only where there is a queue.";
    QUEUE_PAUSED = "tidegate_queue_paused", "gauge", ["queue"], "1: nothing of it is begun, as somebody wants it so. Only where there is a queue.";
    QUEUE_PARKED = "tidegate_queue_parked", "gauge", ["queue"], "1: nothing of it is begun, as its upstream's breaker is open or its gate is full. Only where there is a queue.";
    SHARD_LEADS = "tidegate_shard_leads", "gauge", ["shard"], "1: this node makes the deliveries of this shard of the store. Only where there is a queue.";
    QUEUE_ATTEMPTS = "tidegate_queue_attempts_total", "counter", ["queue", "outcome"], "Attempts by what they came to: `delivered`; `again`; `dead`; `unsent` (nothing was sent, and none is spent); `cancelled`; `lapsed` (whoever had it was not heard of again). Only where there is a queue.";
    QUEUE_SECONDS = "tidegate_queue_attempt_seconds", "histogram", ["queue"], "How long attempts took, to the last byte of the answer. Only where there is a queue.";
    TENANT_WAITING = "tidegate_tenant_deliveries_waiting", "gauge", ["tenant"], "Deliveries that have not begun, of the twenty tenants that have most; the line with `sum=\"true\"` is the rest. The twenty are looked for among the first 5,000 pairs of queue and tenant. Only where there is a queue.";
    CLUSTER_NODES_UP = "tidegate_cluster_nodes_up", "gauge", [], "Nodes that are asked now, this one included.";
    CLUSTER_ASKED = "tidegate_cluster_asked_total", "counter", ["outcome"], "Questions to the home nodes of targets: `answered`; and what went to the upstream: `away`, `late`, `refused`, `old` (the home had what a purge has taken away).";
    CLUSTER_ANSWERED = "tidegate_cluster_answered_total", "counter", ["outcome"], "Questions of other nodes: `answered`, or `refused`, so that they ask the upstream.";
    CLUSTER_PASSED = "tidegate_cluster_passed_total", "counter", ["outcome"], "Questions to other nodes about deliveries that they make and that are pulled here: `answered`; `unreached` (it was not told); `unknown` (it may have done what was asked); `full` (too many were under way).";
    CLUSTER_PASSING = "tidegate_cluster_passing", "gauge", [], "Such questions under way; claims that wait are among them.";
    CLUSTER_HEARD = "tidegate_cluster_heard_total", "counter", ["outcome"], "Questions of other nodes about deliveries that this one makes: `answered`; `unanswered` (too many at once, or no question that can be answered); `gone` (whoever asked has left).";
    CLUSTER_PURGES = "tidegate_cluster_purges_total", "counter", ["direction"], "Purges that other nodes were `told`, or that were `heard` of them, where no Redis has them.";
    CLUSTER_PURGES_WAITING = "tidegate_cluster_purges_waiting", "gauge", [], "Purges that other nodes are still to be told, for all of them together.";
    CLUSTER_STRANGERS = "tidegate_cluster_strangers_total", "counter", [], "What came to the nodes' listener and was not said by a node of the cluster, to this one, just then and for the first time.";
    AUTHORIZED = "tidegate_authorize_total", "counter", ["outcome"], "Requests of which a route's authorizer was to decide: `allowed`, `denied`; `remembered` (what it said before still counted); `failed` (it did not answer, and the request was refused); `open` (it did not answer, and the request went on, as the route says).";
    LOGINS = "tidegate_logins_total", "counter", ["login", "outcome"], "What became of logins by an `[oidc.NAME]`, and of requests to routes that want one: `session` (a request had a session), `sent` (a browser was sent to the provider), `logged-in`, `logged-out`; `refreshed` (tokens were asked for anew), `ended` (the provider gave no more: the session has ended), `kept` (the provider could not be asked, and the session went on); and refused: `required`, `forbidden`, `invalid`, `unavailable`.";
    LOGIN_PROVIDER_UP = "tidegate_login_provider_up", "gauge", ["login"], "1: the provider of an `[oidc.NAME]` answered when it was last asked for its metadata and keys.";
    REFUSALS = "tidegate_refusals_total", "counter", ["code"], "Refusals; `tidegate explain CODE` tells what a code means.";
    TRIES = "tidegate_upstream_tries_total", "counter", [], "Calls to upstreams, retries and hedges included.";
    ENDPOINT_REQUESTS = "tidegate_endpoint_requests_total", "counter", ["upstream", "endpoint"], "Calls to an endpoint.";
    ENDPOINT_FAILURES = "tidegate_endpoint_failures_total", "counter", ["upstream", "endpoint"], "Calls to an endpoint that failed or were answered with 5xx.";
    ENDPOINT_CONNECTS = "tidegate_endpoint_connects_total", "counter", ["upstream", "endpoint"], "Connections made to an endpoint.";
    ENDPOINT_CONNECTIONS = "tidegate_endpoint_connections", "gauge", ["upstream", "endpoint"], "Connections open to an endpoint.";
    ENDPOINT_ACTIVE = "tidegate_endpoint_active", "gauge", ["upstream", "endpoint"], "Calls to an endpoint under way.";
    ENDPOINT_UP = "tidegate_endpoint_up", "gauge", ["upstream", "endpoint"], "1: the endpoint is enabled, healthy and not ejected.";
    ENDPOINT_LATENCY = "tidegate_endpoint_latency_seconds", "gauge", ["upstream", "endpoint"], "The latency average that balancing uses; peaks weigh heavily.";
    FILES_REQUESTS = "tidegate_files_requests_total", "counter", ["upstream"], "Calls that files answered, where an upstream is a directory.";
    FILES_FAILURES = "tidegate_files_failures_total", "counter", ["upstream"], "Calls that files could not answer, or broke off: the disk failed, or a file changed while it was read.";
    FILES_WAITED = "tidegate_files_disk_reads_total", "counter", ["upstream"], "Times that a file was not in memory, and a thread read it from the disk.";
    FILES_ACTIVE = "tidegate_files_active", "gauge", ["upstream"], "Calls that files answer, under way.";
    BREAKER_OPEN = "tidegate_upstream_breaker_open", "gauge", ["upstream"], "1: the upstream's circuit breaker is open.";
    BREAKER_OPENED = "tidegate_upstream_breaker_opened_total", "counter", ["upstream"], "Times the upstream's circuit breaker opened.";
    GATE_SLOTS = "tidegate_upstream_slots", "gauge", ["upstream"], "Slots of the upstream's gate, where it is limited: what `concurrency` says, or what was found.";
    GATE_USED = "tidegate_upstream_slots_used", "gauge", ["upstream"], "Slots of the upstream's gate in use, where it is limited.";
    GATE_WAITING = "tidegate_upstream_waiting", "gauge", ["upstream"], "Requests waiting for a slot.";
    SHARD_REFUSED = "tidegate_upstream_shard_refused_total", "counter", ["upstream"], "Calls refused because no endpoint of the tenant's shard was usable, where there is `shuffle_shard`.";
    SHARD_SPILLED = "tidegate_upstream_shard_spilled_total", "counter", ["upstream"], "Calls that went to other endpoints than those of the tenant's shard because none of these was usable.";
    GATE_REFUSED = "tidegate_upstream_gate_refused_total", "counter", ["upstream", "reason"], "Requests that the upstream's gate refused: `full`, `tenant-full`, `bytes`, `displaced`, `wait`, `deadline`, `overloaded`.";
    UPSTREAM_LEVEL = "tidegate_upstream_load_level", "gauge", ["upstream"], "How overloaded the upstream is, 0 to 3.";
    CONNECTIONS = "tidegate_connections", "gauge", [], "Client connections open.";
    CONNECTIONS_REFUSED = "tidegate_connections_refused_total", "counter", [], "Client connections refused because there were too many.";
    HANDSHAKES_FAILED = "tidegate_tls_handshake_failures_total", "counter", ["reason"], "TLS handshakes with clients that failed: `left` (the client went), `slow`, `unnamed` (no certificate for the name), `protocol`; of clients' certificates `certificate-missing`, `certificate-expired`, `certificate-revoked`, `certificate-unpinned`, `certificate-untrusted`.";
    ACME_ORDERS = "tidegate_acme_orders_total", "counter", ["outcome"], "Orders of certificates at the authority: `issued`, `failed`. Only where `[acme]` is configured.";
    CERTIFICATES_HELD = "tidegate_certificates_in_memory", "gauge", [], "Certificates of `[acme]` in memory. Only where that is configured.";
    CERTIFICATE_EXPIRY = "tidegate_certificate_expiry_timestamp_seconds", "gauge", ["name"], "When the certificate of a configured name ends, in seconds since the Unix epoch; 0: there is none yet. Of the first hundred names of `[acme] domains`.";
    ACCEPT_FAILURES = "tidegate_accept_failures_total", "counter", [], "Client connections that could not be accepted, mostly for want of file descriptors.";
    LEVEL = "tidegate_load_level", "gauge", [], "How overloaded the process is, 0 to 3.";
    SHEDDING = "tidegate_shedding", "gauge", ["cause"], "Whom the process refuses for want of `memory`, or a core at least for want of `time`. 0: nobody, 1: tenants that hold more than their share, 2: sheddable requests too, 3: all but critical ones, 4: all.";
    MEMORY = "tidegate_memory_bytes", "gauge", [], "Memory that the process takes: what is resident, and what the kernel holds of its sockets where its control group tells that.";
    MEMORY_LIMIT = "tidegate_memory_limit_bytes", "gauge", [], "Memory that it may take; 0: not watched.";
    HELD = "tidegate_held_bytes", "gauge", [], "Bytes that bodies under way may make the process hold.";
    HELD_LIMIT = "tidegate_held_limit_bytes", "gauge", [], "Bytes that bodies may make it hold at most; 0: not bounded.";
    OPEN_FILES = "tidegate_open_files", "gauge", [], "File descriptors open.";
    OPEN_FILES_LIMIT = "tidegate_open_files_limit", "gauge", [], "File descriptors that there may be.";
    LAG = "tidegate_lag_seconds", "gauge", ["core"], "How late a core has been all the time of late: the least over half a second.";
    BACKLOG = "tidegate_accept_backlog_ratio", "gauge", ["core"], "How full the kernel's list of connections that wait to be accepted has been all the time of late, 0 to 1.";
    LISTEN_OVERFLOWS = "tidegate_listen_overflows_total", "counter", [], "Connections that the kernel dropped as such a list was full, those of other processes of the same network included.";
    TENANTS = "tidegate_tenants", "gauge", [], "Tenants with state of their own.";
    TENANT_REQUESTS = "tidegate_tenant_requests_total", "counter", ["tenant"], "Exchanges that a tenant's limits let through, for the busiest tenants; the line with `sum=\"true\"` is the rest.";
    TENANT_REFUSED = "tidegate_tenant_refused_total", "counter", ["tenant"], "Exchanges that a tenant's limits refused, for the busiest tenants; the line with `sum=\"true\"` is the rest.";
    MAINTENANCE = "tidegate_maintenance_windows", "gauge", [], "Windows of maintenance, by order or by the configuration.";
    FAULTS = "tidegate_faults", "gauge", [], "Injected faults that have not ended.";
    FAULTS_STRUCK = "tidegate_faults_struck_total", "counter", ["kind"], "Times an injected fault struck an exchange: `delay`, `abort`, `reset`, `throttle` or `truncate`.";
    MIRRORED = "tidegate_mirror_requests_total", "counter", ["route", "outcome"], "Requests that were mirrored: both answers are `equal`, or `different`; `uncompared`: nobody can say; `failed`: the mirror gave no answer. Only on routes with `mirror`.";
    MIRROR_SKIPPED = "tidegate_mirror_skipped_total", "counter", ["route", "reason"], "Requests that were to be mirrored and were left out: `load`, `busy` (`concurrency`), `memory`, `body` (too large), `unanswered` (by the upstream); or whose client left first: `left`; or of which nothing is compared: `cut`, `late`, `backlog`. Only on routes with `mirror`.";
    MIRROR_DIFFERENCES = "tidegate_mirror_differences_total", "counter", ["route", "kind"], "Answers of mirrors that differed, by what differed: `status`, `header`, `body`; one may count in several. Only on routes with `mirror`.";
    MIRROR_SECONDS = "tidegate_mirror_seconds", "histogram", ["route", "side"], "To the head of the answer, of requests that both answered: of the `upstream`, and of the `mirror`. Only on routes with `mirror`.";
    MIRROR_ACTIVE = "tidegate_mirror_active", "gauge", ["route"], "Copies that are under way. Only on routes with `mirror`.";
    CANARY_SHARE = "tidegate_canary_share", "gauge", ["route"], "The share of requests that a route's next version gets, 0 to 1. Only on routes with `canary`.";
    CANARY_PHASE = "tidegate_canary_phase", "gauge", ["route", "phase"], "1: the canary is `waiting`, `running`, `paused`, `promoted` or `rolled-back`. Only on routes with `canary`.";
    CANARY_REQUESTS = "tidegate_canary_requests_total", "counter", ["route", "side", "outcome"], "Requests that the `baseline` and the `canary` were asked for first: `good`, or `error` (5xx, or no answer). Only on routes with `canary`.";
    CANARY_ROLLBACKS = "tidegate_canary_rollbacks_total", "counter", ["route"], "Times this node has found a canary worse than its baseline, and taken it back. Only on routes with `canary`.";
    REDIS_UP = "tidegate_redis_up", "gauge", [], "1: Redis is connected, and this node has read the log of purges to its end. Only where `[redis]` is configured.";
    REDIS_FAILURES = "tidegate_redis_failures_total", "counter", [], "Connections to Redis that did not come about or were lost. Only where `[redis]` is configured.";
    PURGES = "tidegate_purges_total", "counter", ["direction"], "Purges that this node `sent` to all others, and `read` of theirs. Only where `[redis]` is configured.";
    PURGES_WAITING = "tidegate_purges_waiting", "gauge", [], "Purges of this node that wait to be sent to all others. Only where `[redis]` is configured.";
    PURGES_LOST = "tidegate_purges_lost_total", "counter", [], "Times this node could not know which purges it has missed, and took all that it had for stale; the first time is its start. Only where `[redis]` is configured.";
    SHARED = "tidegate_cache_shared_total", "counter", ["outcome"], "What became of the tier of the cache that all nodes share. Questions: `hit`, `miss`, `late` (no answer within `wait`), `unusable` (purged, perhaps purged, or not as it was written); answers: `kept` (handed over); both: `dropped` (too many waited). Only where `[cache] redis` is configured.";
    CACHE_SLICES = "tidegate_cache_slices_total", "counter", ["outcome"], "Slices of large answers: `kept`; `dropped`, since the disk did not take them in time; `read` from memory or disk. `asked`: requests to upstreams for slices that were missing; `changed`: those that met another representation; `broken`: answers that ended in their middle, since a slice was missing and could not be had.";
    CACHE_DISK_UP = "tidegate_cache_disk_up", "gauge", [], "1: the cache's disk tier reads and writes. 0: it only reads, or is skipped: `/status` says why. Only where `[cache] disk` is configured.";
    CACHE_DISK_BYTES = "tidegate_cache_disk_bytes", "gauge", [], "Bytes of the answers on disk. Only where `[cache] disk` is configured.";
    CACHE_DISK_ANSWERS = "tidegate_cache_disk_answers", "gauge", [], "Answers on disk. Only where `[cache] disk` is configured.";
    CACHE_DISK_READS = "tidegate_cache_disk_reads_total", "counter", ["outcome"], "Requests that found nothing in memory: `hit`, `miss`; and answers on disk that were `unread` since the disk was too busy, `spoilt`, or met an `error`. Only where `[cache] disk` is configured.";
    CACHE_DISK_WRITES = "tidegate_cache_disk_writes_total", "counter", ["outcome"], "Answers for the disk: `written`, `dropped` since it was too busy or away, too `large`; and writes that met an `error`. Only where `[cache] disk` is configured.";
    CACHE_DISK_EVICTED = "tidegate_cache_disk_evicted_total", "counter", [], "Answers that made room for others on disk. Only where `[cache] disk` is configured.";
    LINES_DROPPED = "tidegate_access_log_dropped_total", "counter", [], "Access log lines dropped because the writer could not keep up.";
    LINES_LEFT_OUT = "tidegate_access_log_left_out_total", "counter", [], "Access log lines left out under load, where `degrade.log` of a route says so.";
    OTLP_EXCHANGES = "tidegate_otlp_exchanges_total", "counter", ["outcome"], "Exchanges and attempts that are told as traces, by why: `error`, `slow`, `share`; and those that would have been and are lost: `bound` (more failed or were slow than may be told in a second), `queue` (too many waited to be sent). Only where `[otlp]` tells traces.";
    OTLP_ITEMS = "tidegate_otlp_items_total", "counter", ["signal", "outcome"], "Spans and points of metrics (`traces`, `metrics`) by what became of them: `sent`, `rejected` (the collector says so), `lost` (it could not be reached in time, or wanted none). Only where `[otlp]` is configured.";
    OTLP_UP = "tidegate_otlp_up", "gauge", ["signal"], "1: the collector took what it was sent last, or was sent nothing yet. Only where `[otlp]` is configured.";
    RELOADS = "tidegate_config_reloads_total", "counter", ["outcome"], "Reloads of the configuration: `applied` or `refused`.";
    AUDIT_FAILURES = "tidegate_audit_failures_total", "counter", [], "Changes that could not be written to the audit log.";
    BUILD = "tidegate_build_info", "gauge", ["version"], "1, labelled with the version.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for metric in METRICS {
            assert!(metric.name.starts_with("tidegate_"), "{}", metric.name);
            assert_eq!(metric.kind == "counter", metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
