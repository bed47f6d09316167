//! A guest: a program for Fastly Compute that leaves its clients to Fanout. It looks
//! at each request once, and has gone while the client stays.
//!
//! main has no #[fastly::main]: that wants a response back, and a handoff has none.

use fastly::http::Method;
use fastly::{Error, Request};

/// The origin's name in fastly.toml.
const BACKEND: &str = "origin";

fn main() -> Result<(), Error> {
    let request = Request::from_client();
    if goes_to_fanout(&request) {
        request.handoff_fanout(BACKEND)?;
        return Ok(());
    }
    // All else is proxied, and may be cached on the way.
    request.send(BACKEND)?.send_to_client();
    Ok(())
}

/// Which requests the origin may want to be held. An app would know by the path, or
/// by a header. WebSockets begin with a GET.
fn goes_to_fanout(request: &Request) -> bool {
    matches!(request.get_method(), &Method::GET | &Method::HEAD)
}
