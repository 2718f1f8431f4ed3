//! Tealgate from outside: what is promised to clients, operators and pipelines, over real sockets.

// What the tests stand on: upstreams, clients, load, the proxy in process and as a process.
mod support;

// The tests' own instruments: load that is well sees no failure, load that is not says which.
mod instruments;

// The flip itself, under every kind of load.
mod flip;

// What keeps live requests out for a while: holds and maintenance.
mod hold;

// Copies of live requests for the candidate, and how the answers compare.
mod mirror;

// What outlives kills, signals, dead endpoints and bad files.
mod survival;

// Against a real Kubernetes control plane and the real Argo Rollouts controller.
#[cfg(feature = "kubernetes")]
mod cluster;

// Who sees the candidate: every way in, every restriction, and the proxy's own path.
mod preview;

// Live traffic told apart: weight, rules, and users who stay where they are.
mod ab;

// Following a cluster: Rollouts and Services, an API server with faults, and traffic meanwhile.
#[cfg(feature = "kubernetes")]
mod kubernetes;

// What following a cluster costs, and how soon it is followed.
#[cfg(feature = "kubernetes")]
mod kubernetes_figures;

// HTTP/1 in good and bad days: bodies, connections, and who learns what when the other leaves.
mod http1;

// HTTP/2 from clients: streams, bodies, translation for HTTP/1.1, and floods.
mod http2;

// HTTP/2 towards upstreams: connections and streams, what is sent again, and every shape of body between all versions.
mod h2_upstream;

// gRPC calls of every kind.
mod grpc;

// WebSockets and other upgrades.
mod websocket;

// TLS towards clients, and its certificates.
mod tls;

// Upstreams over TLS, at Unix sockets and by name, and what they are told of clients.
mod upstreams;

// What becomes of fields on their way, both ways.
mod headers;

// Clients that others speak for: load balancers with the PROXY protocol, HTTP proxies with fields.
mod forwarded;
mod proxy_protocol;

// What two parsers could read in two ways reaches neither side.
mod smuggling;

// How much, how many and how long.
mod limits;

// More than is let in: places in flight, the line before them, rates, and pages for those who are over.
mod overload;

// Long-lived streams when their pool is retired or the proxy ends.
mod streams;
// What dies under way, by our count and by the clients'.
mod losses;
// Whoever leaves in the middle, between all versions of both sides.
mod aborts;

// What is tried again, where, and how often.
mod retries;

// Which endpoint a request goes to, and which rests.
mod balancing;

// Suites that others wrote: what they find wrong with us is wrong.
mod outside_suite;

// The command line, as people and pipelines use it.
mod cli;

// The admin API over TCP: who gets in, what is guarded, what is told.
mod admin;

// What a candidate must pass before it is promoted.
mod smoke;

// The files in `deploy/pipelines`, step by step.
mod pipelines;

// What is counted and logged, against what clients did.
mod metrics;

// The demo, as a newcomer runs it.
mod demo;

// The example files and the schema, and files with mistakes.
mod config_files;

// What may depend on what.
mod layers;
