//! The exchange of a request with the application.
//!
//! The permit of the [`limit`](super::limit) is passed on when the last byte of the response was *read*.
//!
//! How the server learns of a failure:
//!
//! | failure | what the server sees |
//! |---|---|
//! | the application closed before any byte of a response, or within a small one; or it cannot be reached and the request may be repeated | the connection closes: it asks another backend, or responds 502 |
//! | the application cannot be reached, and the request may not be repeated | nothing for 10 s, then 502 |
//! | the response is malformed, up to the end of its head | 502 |
//! | no response in time | 504 |
//! | no permit in time | 503 |
//! | the request body arrives slower than 500 bytes a second | the connection closes; the server has responded 408 by then |
//! | the response breaks off | the connection is reset within the response |

use std::sync::Arc;
use std::time::Duration;

use super::application::Application;
use super::buffers::Buffers;
use super::connection::DialledConnection;
use super::forward::ForwardedRequest;
use super::running::RunningConfig;
use super::state::{AfterOwnResponse, DialledState, DialledStep};
use crate::exchange::RequestBody;
use crate::http::body::Framing;
use crate::http::head::{Persistence, RequestHead, ResponseHead};
use crate::net::tunnel::{Start, TunnelTimeouts};
use crate::relay::parking::Unread;
use crate::relay::upload::StreamingUpload;
use crate::relay::{ClientSide, Exchange, Outcome, RelayError, Step, Switched};
use crate::stats::Close;

impl DialledConnection {
    /// Begins the exchange of a request, whose body is complete or is passed on as it arrives.
    pub(super) fn begin_exchange(
        &mut self,
        head: RequestHead,
        body: RequestBody,
        upload: Option<Box<StreamingUpload>>,
        settings: Arc<RunningConfig>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        // The request may have waited for a worker, and the server may have left meanwhile.
        self.parking.may_be_gone = false;
        if self.parking.unread == Unread::Unsure && self.conn().stream().is_ended() {
            return DialledStep::Close;
        }
        if head.max_forwards == Some(0) {
            // It must not be forwarded, so the access proxy responds itself.
            let after = AfterOwnResponse::Keep(upload);
            return self.respond(&ResponseHead::options(), b"", &head.method, after, buffers);
        }
        let request = ForwardedRequest::new(&self.all.shared, settings, head, body);
        let arrived = request.arrived;
        self.advance(Box::new(Exchange::new(request, upload, arrived)), buffers)
    }

    /// Advances an exchange.
    pub(super) fn advance(
        &mut self,
        mut exchange: Box<Exchange<ForwardedRequest>>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        let (input, mut tools) = buffers.tools();
        let Self {
            conn,
            pending_output,
            parking,
            ..
        } = self;
        let Some(conn) = conn else {
            return DialledStep::Close;
        };
        let mut client = ClientSide {
            conn,
            input,
            pending_output,
            has_event: parking.may_be_gone,
        };
        let step = exchange.advance(&mut client, &mut tools);
        parking.may_be_gone = client.has_event;
        if exchange.upload.is_some() {
            // The upload reads the socket without updating `unread`.
            parking.unread = Unread::Unsure;
        }
        match step {
            Step::Blocked(interests) => {
                DialledStep::Wait(DialledState::Exchange(exchange), interests)
            }
            Step::Yield => DialledStep::Yield(DialledState::Exchange(exchange)),
            Step::Done(outcome) => self.end_exchange(exchange, outcome, buffers),
        }
    }

    /// Ends an exchange: reports failures to the log and to the server.
    fn end_exchange(
        &mut self,
        mut exchange: Box<Exchange<ForwardedRequest>>,
        outcome: Outcome<Application>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        let upload = exchange.upload.take();
        let request = &exchange.handler;
        let to = &request.settings.config.to;
        match outcome {
            Outcome::Delivered(delivered, _) if delivered.ended == Close::Complete => {
                self.finish_upload(upload, buffers)
            }
            Outcome::Delivered(delivered, _) => {
                if delivered.ended == Close::BackendFailed {
                    log::warn!("{to}: the response is cut");
                }
                self.conn_mut().reset_on_close();
                DialledStep::Close
            }
            Outcome::Switched(switched) => self.switch_protocols(*switched, request, buffers),
            Outcome::Gone(_) => {
                // The server's deadlines are usually shorter, so it closes the connection.
                request.shared.count_unanswered();
                DialledStep::Close
            }
            Outcome::Failed(error) => {
                let status = match error {
                    RelayError::TooSlow | RelayError::Stalled => {
                        log::warn!("{to}: no response in time");
                        request.shared.count_unanswered();
                        504
                    }
                    RelayError::BadResponse(why) => {
                        log::warn!("{to}: bad response: {why}");
                        502
                    }
                    RelayError::NoBackend => {
                        let most = request.settings.config.places;
                        let patience = request.rules.first_byte;
                        log::warn!("{to}: no place in {patience:?}: places ({most})");
                        503
                    }
                    RelayError::Unreachable => 502,
                    // The server asks another backend, or responds itself.
                    _ => return DialledStep::Close,
                };
                let after = AfterOwnResponse::Keep(upload);
                self.refuse(status, &request.head.method, after, buffers)
            }
        }
    }

    /// Prepares a tunnel: what is sent first in each direction, beginning with the head of the 101.
    fn switch_protocols(
        &mut self,
        switched: Switched<Application>,
        request: &ForwardedRequest,
        buffers: &mut Buffers,
    ) -> DialledStep {
        let mut to_server = std::mem::take(&mut self.pending_output);
        let head = &switched.head;
        head.write(Framing::Empty, Persistence::Upgrade, None, &mut to_server);
        to_server.extend_from_slice(&switched.behind);
        let to_app = buffers.input.data().to_vec();
        buffers.input.clear();
        let patience = request.settings.config.timeouts.backend;
        // A client may be slow, and so the server.
        self.conn().stream().give_up_after(patience);
        DialledStep::Tunnel(Box::new(Start {
            backend: switched.upstream.into_conn(),
            to_client: to_server,
            to_backend: to_app,
            patience: TunnelTimeouts {
                idle: TUNNEL_IDLE_TIMEOUT,
                write: patience,
                backend: patience,
                client: patience,
            },
        }))
    }
}

/// How long an upgraded connection may be idle. The server has its own limit, and the system notices when the server is
/// gone.
const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
