//! The access proxy: between a server, real or played by the test, and an ordinary application.

mod command;
mod dialling;
mod exchanges;
mod hanging;
mod lifetime;
mod starting;
mod waiting;

use std::path::Path;

use crate::common::{Access, Server, Visitor};

const NO_KEY: &str = "swiftclient00000000000000";

/// A server that the test plays, the line that was dialled first, and the application.
fn by_hand() -> (Server, Server, Access) {
    let (server, app) = (Server::start(), Server::start());
    let yaml = format!(
        "{{connect: '{}', to: '{}', connections: 1}}",
        server.address(),
        app.address()
    );
    let access = Access::start(&yaml, &[]);
    (server, app, access)
}

fn dialled(server: &Server) -> Visitor {
    Visitor::dialled(server.accept(), NO_KEY)
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}
