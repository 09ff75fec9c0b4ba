//! Envoy: one worker, circuit breakers out of the way, no request ids but in the product row.

use std::fmt::Write as _;

use super::{Paths, RATE_HIGH, SEEN_BURST, SEEN_MAX, Setup, Tenants, Written};
use crate::bench::requests;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub fn files(setup: &Setup, paths: Paths<'_>, port: u16) -> Vec<Written> {
    let keyed = setup.tenants == Tenants::Keyed;
    let text = format!(
        "# Tidegate's benchmark writes this file.
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          generate_request_id: {keyed}
          common_http_protocol_options: {{ idle_timeout: 75s }}
          http2_protocol_options: {{ max_concurrent_streams: 128 }}
{log}          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
{routes}          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": {TYPES}.filters.http.router.v3.Router
              suppress_envoy_headers: true
{tls}  clusters:
  - name: origin
    type: STATIC
    lb_policy: ROUND_ROBIN
    connect_timeout: 1s
    circuit_breakers:
      thresholds:
      - {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 100000 }}
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
{endpoints}",
        log = if keyed { log(paths) } else { String::new() },
        routes = routes(setup),
        filters = filters(setup),
        tls = if setup.tls { tls(paths) } else { String::new() },
        endpoints = endpoints(setup),
    );
    vec![("envoy.yaml", text)]
}

fn routes(setup: &Setup) -> String {
    let mut text = String::new();
    for route in 0..setup.routes {
        let path = if setup.routes == 1 { "/".to_owned() } else { requests::route_path(route) };
        let _ = writeln!(
            text,
            "              - {{ match: {{ prefix: \"{path}\" }}, route: {{ cluster: origin, timeout: 5s }} }}"
        );
    }
    text
}

fn endpoints(setup: &Setup) -> String {
    let mut text = String::new();
    for origin in setup.origins() {
        let (address, port) = origin.split_once(':').unwrap_or((&origin, "0"));
        let _ = writeln!(
            text,
            "        - endpoint: {{ address: {{ socket_address: {{ address: {address}, port_value: {port} }} }} }}"
        );
    }
    text
}

fn tls(paths: Paths<'_>) -> String {
    format!(
        "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": {TYPES}.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - {{ certificate_chain: {{ filename: \"{}\" }}, private_key: {{ filename: \"{}\" }} }}
",
        paths.cert.display(),
        paths.key.display()
    )
}

fn log(paths: Paths<'_>) -> String {
    format!(
        "          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": {TYPES}.access_loggers.file.v3.FileAccessLog
              path: \"{}/access.log\"
              log_format:
                json_format:
                  time: \"%START_TIME%\"
                  id: \"%REQ(X-REQUEST-ID)%\"
                  tenant: \"%REQ(X-TENANT)%\"
                  client: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"
                  method: \"%REQ(:METHOD)%\"
                  host: \"%REQ(:AUTHORITY)%\"
                  path: \"%REQ(:PATH)%\"
                  status: \"%RESPONSE_CODE%\"
                  bytes: \"%BYTES_SENT%\"
                  ms: \"%DURATION%\"
                  upstream: \"%UPSTREAM_HOST%\"
                  upstream_ms: \"%RESPONSE_DURATION%\"
                  agent: \"%REQ(USER-AGENT)%\"
",
        paths.folder.display()
    )
}

fn filters(setup: &Setup) -> String {
    match setup.tenants {
        Tenants::Off => String::new(),
        Tenants::Keyed => api_keys() + &limit(RATE_HIGH, RATE_HIGH, "1s", 1000),
        Tenants::Seen => limit(SEEN_BURST, 1, "3600s", SEEN_MAX),
    }
}

/// The key names the tenant, which the limit then finds in a header.
fn api_keys() -> String {
    let mut text = format!(
        "          - name: envoy.filters.http.api_key_auth
            typed_config:
              \"@type\": {TYPES}.filters.http.api_key_auth.v3.ApiKeyAuth
              key_sources: [{{ header: x-api-key }}]
              forwarding: {{ header: x-tenant }}
              credentials:
"
    );
    for tenant in 0..requests::KEYS {
        let _ =
            writeln!(text, "              - {{ key: \"{}\", client: \"t{tenant}\" }}", requests::key(tenant));
    }
    text
}

/// A bucket per tenant, made when the tenant is first seen.
fn limit(burst: u32, fill: u32, interval: &str, tenants: usize) -> String {
    let always = "{ default_value: { numerator: 100, denominator: HUNDRED } }";
    let bucket =
        |tokens| format!("{{ max_tokens: {tokens}, tokens_per_fill: {fill}, fill_interval: {interval} }}");
    format!(
        "          - name: envoy.filters.http.local_ratelimit
            typed_config:
              \"@type\": {TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: limit
              token_bucket: {{ max_tokens: 4000000000, tokens_per_fill: 4000000000, fill_interval: 1s }}
              filter_enabled: {always}
              filter_enforced: {always}
              max_dynamic_descriptors: {tenants}
              descriptors:
              - {{ entries: [{{ key: tenant }}], token_bucket: {} }}
              rate_limits:
              - actions:
                - request_headers: {{ header_name: x-tenant, descriptor_key: tenant }}
",
        bucket(burst)
    )
}
