//! How a command ends: the exit code pipelines branch on, and what a person reads when it is not 0. Every way to fail
//! becomes a [`Failure`] here, so that each code is given in one place.

use std::{fmt, io, process::ExitCode};

use http::StatusCode;

use crate::admin::api::Problem;

/// The exit codes. They are part of the contract: scripts tell a refusal from a conflict by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// It failed; live traffic is as it was.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A gate or a policy said no.
    Refused = 3,
    /// It did not happen in time.
    TimedOut = 4,
    /// The generation, a pin or another flip is in the way.
    Conflict = 5,
    /// It was promoted, and then rolled back.
    RolledBack = 6,
    /// The token is missing, wrong, or not enough.
    Unauthorised = 7,
    /// Nobody answers there.
    Unreachable = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what was asked: what happened, why, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The server's stable name for it; empty where it is not the server's.
    pub(crate) code: String,
    /// What happened, to whom.
    pub(crate) what: String,
    /// Why; may be empty.
    pub(crate) detail: String,
    /// The next step; may be empty.
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, code: String::new(), what: what.into(), detail: String::new(), hint: String::new() }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// The server answered `status`, with this problem if it sent one.
    pub(crate) fn answered(what: impl fmt::Display, status: StatusCode, problem: Problem) -> Self {
        let exit = Exit::of_answer(&problem.code, status);
        let reason = if problem.code.is_empty() { status.to_string() } else { problem.code };
        let detail = if problem.detail.is_empty() { problem.title } else { problem.detail };
        // The server's hints are for those who write requests by hand; where that matters, ours take their place.
        let hint = match reason.as_str() {
            "unauthorized" => "set TEALGATE_TOKEN or --token-file, or use the server's Unix socket: --server unix:PATH",
            "unknown-app" => "`tealgate status` shows the apps there are",
            "generation-mismatch" => "see what was done with `tealgate history`, then decide anew",
            "not-ready" => {
                "`tealgate status` shows which endpoints fail their probes, and the server's log why; then try again"
            }
            _ if problem.kind.is_empty() => {
                "is this a Tealgate admin API? it is at --server http://HOST:7180 by default"
            }
            _ => &problem.hint,
        };
        let hint = hint.to_owned();
        Self { exit, what: format!("{what}: {reason}"), detail, hint, code: reason }
    }
}

impl Exit {
    /// The code for an answer that is no success: by the problem's stable `code`, else by the status.
    pub(crate) fn of_answer(code: &str, status: StatusCode) -> Self {
        match code {
            "not-ready" | "gate-failed" | "other-authority" => Self::Refused,
            "generation-mismatch" | "pinned" | "already-active" | "held" | "overtaken" => Self::Conflict,
            "invalid" => Self::Usage,
            "no-candidate" | "no-previous" | "in-use" | "unknown-app" | "unknown-revision" | "not-durable"
            | "not-held" | "not-drained" | "not-in-maintenance" | "stopping" | "aborted" | "not-aborted"
            | "authority-away" | "authority-refused" => Self::Failed,
            "timed-out" => Self::TimedOut,
            "unauthorized" | "forbidden" => Self::Unauthorised,
            _ => Self::of_status(status),
        }
    }

    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Unauthorised,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Self::Conflict,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => Self::Usage,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Self::TimedOut,
            _ => Self::Failed,
        }
    }
}

impl fmt::Display for Failure {
    /// What happened on the first line; the reason and the next step, where there are any, each on their own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for line in self.detail.lines() {
            write!(f, "\n{}", format!("  {line}").trim_end())?;
        }
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl From<io::Error> for Failure {
    /// Only the terminal or the pipe we print to fails this way; all else names what it was about.
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, "cannot write the output").detail(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_api_has_its_exit_code() {
        let table = [
            ("not-ready", 409, 3),
            ("gate-failed", 409, 3),
            ("generation-mismatch", 412, 5),
            ("pinned", 409, 5),
            ("already-active", 409, 5),
            ("no-candidate", 409, 1),
            ("overtaken", 409, 5),
            ("no-previous", 409, 1),
            ("in-use", 409, 1),
            ("held", 409, 5),
            ("not-held", 409, 1),
            ("not-drained", 409, 1),
            ("not-in-maintenance", 409, 1),
            ("unknown-app", 404, 1),
            ("unknown-revision", 404, 1),
            ("invalid", 400, 2),
            ("not-durable", 503, 1),
            ("stopping", 503, 1),
            ("other-authority", 409, 3),
            ("aborted", 409, 1),
            ("not-aborted", 409, 1),
            ("authority-away", 503, 1),
            ("authority-refused", 502, 1),
            ("timed-out", 504, 4),
            ("unauthorized", 401, 7),
            ("forbidden", 403, 7),
        ];
        for (code, status, exit) in table {
            let status = StatusCode::from_u16(status).expect("a status of the table");
            assert_eq!(Exit::of_answer(code, status) as u8, exit, "{code}");
        }
    }

    #[test]
    fn an_unknown_code_falls_back_to_the_status() {
        let table =
            [(400, 2), (401, 7), (403, 7), (404, 1), (409, 5), (412, 5), (422, 2), (500, 1), (503, 1), (504, 4)];
        for (status, exit) in table {
            let status = StatusCode::from_u16(status).expect("a status of the table");
            assert_eq!(Exit::of_answer("brand-new", status) as u8, exit, "{status}");
            assert_eq!(Exit::of_answer("", status) as u8, exit, "{status}");
        }
    }

    #[test]
    fn a_failure_says_what_happened_why_and_what_to_do() {
        let problem = Problem {
            kind: "urn:tealgate:problem:pinned".to_owned(),
            title: "Pinned".to_owned(),
            status: 409,
            detail: "shop is pinned to blue by ann: sale".to_owned(),
            code: "pinned".to_owned(),
            hint: "take the pin off first (unpin)".to_owned(),
            gates: Vec::new(),
        };
        let failure = Failure::answered("cannot promote shop", StatusCode::CONFLICT, problem);
        assert_eq!(failure.exit, Exit::Conflict);
        assert_eq!(
            failure.to_string(),
            "cannot promote shop: pinned\n  shop is pinned to blue by ann: sale\nhint: take the pin off first (unpin)"
        );
    }
}
