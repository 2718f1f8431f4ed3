//! `preview link`: has the server make a link that shows the candidate to whoever opens it.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;

use super::{
    client::Call,
    failure::{Exit, Failure},
    output::{BOLD, Page, Show, moment},
    parse,
    session::Session,
};
use crate::{
    admin::api::{PreviewLink, PreviewLinkRequest},
    switch::{AppName, Subject},
};

/// `tealgate preview`
#[derive(Debug, Subcommand)]
pub(crate) enum Preview {
    /// Make a link that shows the candidate on the live host to whoever opens it
    #[command(after_help = "\
The link sets a signed cookie, and leads on to the app; the path /.tealgate/preview?off takes it away. The link is a key: \
give it to testers only. The app must have `preview.cookie` in its configuration.

Examples:
  tealgate preview link shop
  tealgate preview link shop --ttl 2h --subject ann --return /cart
  tealgate preview link demo --host http://127.0.0.1:8080")]
    Link(Link),
}

/// `tealgate preview link`
#[derive(Debug, Args)]
pub(crate) struct Link {
    /// The app; may be left out when the server has exactly one
    app: Option<AppName>,
    /// How long the link and what it opens are good, up to 30d. Default: the app's `preview.cookie.ttl`
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    ttl: Option<Duration>,
    /// The live host it leads to, with http:// before it where there is no TLS. Default: the app's first host
    #[arg(long, value_name = "[http://]HOST[:PORT]")]
    host: Option<String>,
    /// The path that the tester is led on to
    #[arg(long = "return", value_name = "PATH")]
    return_to: Option<String>,
    /// Whom it is for; shown with the event, and in the log when the link is opened
    #[arg(long, value_name = "NAME")]
    subject: Option<Subject>,
}

impl Preview {
    /// Makes a link and prints it.
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self::Link(link) = self;
        let app = session.app(link.app).await?;
        let body = PreviewLinkRequest {
            // Less than a second is none, which the server explains.
            ttl_seconds: link.ttl.map(|ttl| ttl.as_secs()),
            host: link.host,
            return_to: link.return_to,
            subject: link.subject,
        };
        let what = format!("cannot make a preview link for {app}");
        let call = Call::new(what, Method::POST, &format!("/apps/{app}/preview-link")).body(&body);
        let made: PreviewLink = session.client.call(call).await?;
        session.output.show(&made)?;
        Ok(Exit::Done)
    }
}

impl Show for PreviewLink {
    /// The link itself, so that `LINK=$(tealgate preview link shop -o name)` works.
    fn names(&self) -> Vec<String> {
        vec![self.url.clone()]
    }

    fn text(&self, page: &mut Page) {
        let url = page.paint(BOLD, &self.url);
        page.line(url);
        page.line(format!("shows the preview of {} until {}, to whoever opens it", self.app, moment(self.expires)));
    }
}
