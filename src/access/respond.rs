//! Responses of the access proxy itself, and the rest of a request's body that the application did not need.

use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::connection::DialledConnection;
use super::forward::WRITE_TIMEOUT;
use super::state::{AfterOwnResponse, DialledState, DialledStep, OwnResponse, UnneededBody};
use crate::exchange::Body;
use crate::http::head::{Method, ResponseHead, Version};
use crate::relay::delivery::{Delivery, Payload, Progress, Recipient};
use crate::relay::parking::Unread;
use crate::relay::upload::{StreamingUpload, UploadStep};
use crate::relay::{ClientSide, Interests};
use crate::stats::Close;

impl DialledConnection {
    /// Responds with a status and its name.
    pub(super) fn refuse(
        &mut self,
        status: u16,
        method: &Method,
        after: AfterOwnResponse,
        buffers: &mut Buffers,
    ) -> DialledStep {
        let mut head = ResponseHead::new(status);
        head.headers
            .push("Content-Type", b"text/plain; charset=utf-8");
        let body = format!("{}\n", ResponseHead::reason(status));
        self.respond(&head, body.as_bytes(), method, after, buffers)
    }

    /// Sends a response of the access proxy itself.
    pub(super) fn respond(
        &mut self,
        head: &ResponseHead,
        body: &[u8],
        method: &Method,
        after: AfterOwnResponse,
        buffers: &mut Buffers,
    ) -> DialledStep {
        let recipient = Recipient {
            method: Some(method),
            version: Some(Version::Http11),
            keep: true,
            date: None,
            patience: WRITE_TIMEOUT,
            request_id: None,
        };
        let body = Payload::Body(Body::Bytes(body.to_vec()));
        let delivery = Delivery::new(
            head,
            body,
            &recipient,
            &mut self.pending_output,
            &mut buffers.out,
        );
        self.send(Box::new(OwnResponse { delivery, after }), buffers)
    }

    /// Writes as much of a response as the server takes.
    pub(super) fn send(
        &mut self,
        mut response: Box<OwnResponse>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        let (_, mut tools) = buffers.tools();
        match response.delivery.flush(self.conn_mut(), &mut tools) {
            Progress::Done(delivered) => match response.after {
                AfterOwnResponse::Keep(upload) if delivered.ended == Close::Complete => {
                    self.finish_upload(upload, buffers)
                }
                _ => DialledStep::Close,
            },
            Progress::Blocked(interests) => {
                DialledStep::Wait(DialledState::Sending(response), interests)
            }
            Progress::Yield | Progress::Relayed => {
                DialledStep::Yield(DialledState::Sending(response))
            }
        }
    }

    /// Reads the rest of the request's body if it is short, and waits for the next request. If the connection were closed
    /// with unread data, the response would be lost.
    pub(super) fn finish_upload(
        &mut self,
        upload: Option<Box<StreamingUpload>>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        match upload {
            None => self.end_request(buffers),
            Some(upload) => {
                let body = UnneededBody {
                    upload,
                    deadline: Instant::now() + DISCARD_TIMEOUT,
                    left: MOST_DISCARDED,
                };
                self.discard(Box::new(body), buffers)
            }
        }
    }

    /// Reads what has arrived of a body that the application did not need.
    pub(super) fn discard(
        &mut self,
        mut body: Box<UnneededBody>,
        buffers: &mut Buffers,
    ) -> DialledStep {
        // The upload reads the socket without updating `unread`.
        self.parking.unread = Unread::Unsure;
        let Self {
            conn,
            pending_output,
            ..
        } = self;
        let Some(conn) = conn else {
            return DialledStep::Close;
        };
        loop {
            let mut client = ClientSide {
                conn,
                input: &mut buffers.input,
                pending_output,
                has_event: false,
            };
            buffers.out.clear();
            match body.upload.advance(&mut client, false, &mut buffers.out) {
                Ok(UploadStep::End) => return self.end_request(buffers),
                Ok(UploadStep::Some) if body.left > buffers.out.len() => {
                    body.left -= buffers.out.len();
                }
                Ok(UploadStep::Wait(_)) if Instant::now() < body.deadline => {
                    let interests = Interests::time(body.deadline);
                    return DialledStep::Wait(DialledState::Discarding(body), interests);
                }
                _ => return DialledStep::Close,
            }
        }
    }
}

/// How long, and how much of, the unneeded rest of a request's body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_DISCARDED: usize = 1 << 20;
