#!/usr/bin/env bash
# Makes the certificates that examples/tls.toml and mutual-tls.toml name, below examples/certs: an authority, two servers, the gate as
# a client of the application, and a client of the gate; for tests.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p certs
umask 077

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 \
    -subj "/CN=Example authority" -keyout certs/ca.key -out certs/ca.pem 2>/dev/null

leaf() { # leaf FILE NAME...
    local file=$1 names=""
    shift
    for name in "$@"; do names+="${names:+,}DNS:$name"; done
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
        -keyout "certs/$file.key" -out "certs/$file.csr" 2>/dev/null
    openssl x509 -req -in "certs/$file.csr" -CA certs/ca.pem -CAkey certs/ca.key -CAcreateserial -days 90 \
        -extfile <(printf 'subjectAltName=%s' "$names") -out "certs/$file.pem" 2>/dev/null
    rm "certs/$file.csr"
}

leaf example.com example.com www.example.com
leaf wildcard.example.org '*.example.org' example.org
leaf gate gate.internal
leaf acme acme
echo "made $(ls certs/*.pem | wc -l) certificates below $(pwd)/certs"
