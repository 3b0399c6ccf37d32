//! Connects to Redis: to the one of several addresses that is the primary, as Sentinels name it or as it says itself.

use std::time::Duration;

use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, Value,
};

use crate::config::{self, Address};

/// Where Redis is.
#[derive(Debug)]
pub struct Primary {
    config: config::Redis,
}

/// A connection to the primary.
pub struct PrimaryConnection {
    /// For commands.
    pub connection: Connection,
    /// For another connection to the same server.
    pub client: Client,
    /// The address, as in logs.
    pub address: String,
}

impl Primary {
    /// Not connected yet.
    pub fn new(config: &config::Redis) -> Self {
        Self {
            config: config.clone(),
        }
    }

    /// Connects to the primary. Tries one address after the other, each for as long as [`TIMEOUT`] allows.
    ///
    /// # Errors
    /// Why that failed at each address.
    pub fn connect(&self) -> Result<PrimaryConnection, String> {
        let mut faults = Vec::new();
        for address in &self.config.hosts {
            let connected = match &self.config.sentinel {
                None => self.connect_to(address),
                Some(name) => ask_sentinel(address, name).and_then(|at| self.connect_to(&at)),
            };
            match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => faults.push(format!("Redis at {address}: {error}")),
            }
        }
        Err(faults.join("; "))
    }

    fn connect_to(&self, address: &Address) -> Result<PrimaryConnection, String> {
        let mut settings = RedisConnectionInfo::default().set_db(self.config.db.into());
        if let Some(password) = &self.config.password {
            settings = settings.set_password(password);
        }
        let (client, mut connection) = info(address)
            .and_then(|info| open(info.set_redis_settings(settings)))
            .map_err(|error| reason(&error))?;
        // A server without the command, or that does not allow it, is no replica of a group.
        let role: RedisResult<Vec<Value>> = redis::cmd("ROLE").query(&mut connection);
        match role.as_deref() {
            Ok([Value::BulkString(role), ..]) if role == b"slave" => {
                return Err("it is a replica".into());
            }
            Err(error) if error.is_io_error() => return Err(reason(error)),
            _ => {}
        }
        Ok(PrimaryConnection {
            connection,
            client,
            address: address.to_string(),
        })
    }
}

/// The address of the primary, by a Sentinel.
fn ask_sentinel(sentinel: &Address, name: &str) -> Result<Address, String> {
    let primary = info(sentinel)
        .and_then(open)
        .and_then(|(_, mut connection)| {
            let mut command = redis::cmd("SENTINEL");
            command.arg("get-master-addr-by-name").arg(name);
            command.query::<Option<(String, u16)>>(&mut connection)
        });
    let Some((host, port)) = primary.map_err(|error| reason(&error))? else {
        return Err(format!("this Sentinel does not know {name}"));
    };
    Ok(Address::Tcp {
        host,
        port,
        implied: false,
    })
}

fn info(address: &Address) -> RedisResult<ConnectionInfo> {
    match address {
        Address::Tcp { host, port, .. } => ConnectionAddr::Tcp(host.clone(), *port),
        Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
    }
    .into_connection_info()
}

fn open(info: ConnectionInfo) -> RedisResult<(Client, Connection)> {
    let client = Client::open(info)?;
    let connection = client.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok((client, connection))
}

/// Why Redis could not be used, for the log.
pub fn reason(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no response within {} ms", TIMEOUT.as_millis());
    }
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// How long Redis may take to reply.
pub const TIMEOUT: Duration = Duration::from_millis(500);
