//! The thread that receives messages from Redis: that a proxy waits for elements, or that one is there for this proxy.
//!
//! It runs while other proxies use the list, so that the proxies need not ask again and again. Without it, as with a
//! server that allows no subscriptions, they ask more often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Client, RedisResult};

use super::scripts::channel;
use crate::backend::directory::list::Notify;
use crate::backend::directory::maintenance::start;
use crate::net::redis::TIMEOUT;

/// The subscription over one connection. Dropping it ends the thread within [`LOOK_AROUND`].
#[derive(Debug)]
pub(super) struct Subscription {
    state: Arc<SubscriptionState>,
}

#[derive(Debug, Default)]
struct SubscriptionState {
    subscribed: AtomicBool,
    dropped: AtomicBool,
    ended: AtomicBool,
}

impl Subscription {
    /// Starts the thread for the proxy with this id. `None`: the system has no thread.
    pub(super) fn new(client: &Client, proxy_id: &str, syncer: &Arc<Notify>) -> Option<Self> {
        let state = Arc::<SubscriptionState>::default();
        let subscription = Self {
            state: Arc::clone(&state),
        };
        let (client, channel, syncer) = (client.clone(), channel(proxy_id), Arc::clone(syncer));
        start("redis-messages", move || {
            // Why it failed is of no use: the other connection has the same fault, or the server allows no subscriptions.
            let _ = receive(&client, &channel, &syncer, &state);
            state.subscribed.store(false, Ordering::Release);
            state.ended.store(true, Ordering::Release);
        })
        .then_some(subscription)
    }

    /// Whether messages arrive.
    pub(super) fn is_active(&self) -> bool {
        self.state.subscribed.load(Ordering::Acquire)
    }

    /// Whether the thread has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state.ended.load(Ordering::Acquire)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.state.dropped.store(true, Ordering::Release);
    }
}

/// Receives messages until the subscription is dropped.
fn receive(
    client: &Client,
    channel: &str,
    syncer: &Notify,
    state: &SubscriptionState,
) -> RedisResult<()> {
    let mut connection = client.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    let mut subscription = connection.as_pubsub();
    subscription.subscribe(channel)?;
    subscription.set_read_timeout(Some(LOOK_AROUND))?;
    state.subscribed.store(true, Ordering::Release);
    // A message may have been sent before.
    syncer.message();
    while !state.dropped.load(Ordering::Acquire) {
        match subscription.get_message() {
            Ok(_) => syncer.message(),
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How soon the thread notices that it is not needed any more.
const LOOK_AROUND: Duration = Duration::from_millis(500);
