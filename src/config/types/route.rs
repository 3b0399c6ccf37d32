//! A part of a site with backends of its own.

/// Which requests of which site go to the backends of a route (an entry of `routes`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteConfig {
    /// The name of the site whose requests it gets.
    pub site: String,
    /// The decoded path that it gets, with everything below; without a slash at the end, except `/` itself.
    pub prefix: String,
    /// The path that takes the place of the prefix when a request is forwarded (`rewrite`; `/` for `strip`); `None`: the path
    /// stays as it is.
    pub rewrite: Option<String>,
}
