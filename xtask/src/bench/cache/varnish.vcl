# Varnish: one pool of threads, all else as it is by default, its log in shared memory too; storage is malloc, or file in the row about disk
vcl 4.1;

backend origin {
  .host = "{origin_host}";
  .port = "{origin_port}";
}
