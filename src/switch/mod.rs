//! THE CORE: what is active, who may change it, and how it is seen. It knows neither HTTP nor Kubernetes.
//!
//! ```text
//! Desired ──▶ Switchboard ──▶ Rollout::handle (pure) ──▶ Journal ──▶ Snapshot ──▶ publish ──▶ Reader::admit ──▶ Ticket
//! Order   ──▶   (one writer)                                                          └──▶ drain of the retired tenure
//! ```
//!
//! The invariants, each kept in one place:
//! - **One view.** A request is admitted on one [`Snapshot`], built whole and replaced whole (`snapshot`).
//! - **Nobody enters a drained pool.** Once a retired tenure has been seen empty, no request enters it (`admission`,
//!   where the proof is; loom walks it in `admission_model`).
//! - **Testers see the candidate, live traffic never has to.** What asks for the preview gets that or a reason; live
//!   traffic goes there only where that costs nobody an answer (`reader`, with `preview` and `split`).
//! - **One writer.** Only the switchboard publishes, and it handles one message at a time (`switchboard`).
//! - **Generations only grow**, also across restarts (`rollout`, `journal`).
//! - **Acknowledged is durable.** A receipt is answered only after its record is synced (`switchboard`, `journal`).
//! - **Never into a hole.** No flip goes to a pool with fewer ready endpoints than asked (`rollout`).

mod address;
mod admission;
#[cfg(test)]
mod admission_model;
mod app;
mod archive;
mod authority;
mod balance;
mod barrier;
mod capacity;
mod control;
mod desired;
mod drain;
mod ejection;
mod hold;
mod journal;
mod json_path;
mod limits;
mod memory;
mod mirror;
mod name;
mod names;
mod only;
mod policy;
mod pool;
mod preview;
mod reader;
mod record;
mod ring;
mod rollout;
mod roster;
mod set_cookie;
mod smoke;
mod snapshot;
mod split;
mod status;
mod sticky;
mod switchboard;
mod sync;
mod waiting;
mod warmth;

#[cfg(test)]
pub(crate) use self::reader::Plain;
pub use self::{
    address::{Address, HostPort, NotAnAddress, Whereabouts},
    admission::InFlight,
    authority::{Answer, Ask, Authorities, Note, Petition, Telling},
    capacity::{Capacity, Slot},
    control::{
        AppBoard, Applied, Board, Command, Control, Draining, Feed, Follower, Invitation, Invited, Order, Refusal,
        RefusalCode, Viewer,
    },
    desired::{
        Authority, Desired, EndpointSpec, Followed, HostPattern, Matching, Returned, Sighted, Sighting, Standing,
        Wanted,
    },
    ejection::{Judge, Sentence},
    hold::{HeldOutcome, HeldOutcomes, Hold},
    journal::{Journal, JournalError},
    json_path::{JsonPath, JsonStep, NotAJsonPath},
    limits::{ErrorPage, ErrorPages, InFlightLimit, Limits, Rate, RateBy},
    mirror::{BodyComparison, Comparison, Mirror, SafeMethod},
    name::{AppName, Generation, MAX_NAME, NotAName, Revision, Role, Subject},
    names::Names,
    only::{IMAGE, Only, is_made_of},
    policy::{
        AutoPromotion, Balance, BalanceRule, ClientIdentity, Drain, Ejection, Family, HashBy, Hashing, HealthCheck,
        HoldBounds, KeepPrevious, Lookup, MinReady, Policy, Promotion, Protocol, ProxyVersion, Roots, Statuses,
        Streams, TlsVersion, Traffic, Transport, UpstreamTls,
    },
    pool::{Destination, Endpoint, Pool, Stage, Tenure},
    preview::{
        Credential, DOOR, Fallback, NoPass, Pass, PreviewAccess, PreviewCookie, PreviewHeader, Secret, Stranger,
    },
    reader::{Adopted, Door, NotAdmitted, Reader, RequestKey, Ticket, Whose},
    record::{Attempt, EjectionReason, Ejections, Record},
    rollout::{Holding, Previous, Rollout, SmokeRun},
    set_cookie::SetCookie,
    smoke::{CheckReport, Expected, Smoke, SmokeCheck, SmokeReport},
    snapshot::{Closed, Route, Routes, Snapshot},
    split::{Mark, NotAWeight, Share, Split, SplitPolicy, SplitRule, Sticky, Weight},
    status::{
        Action, AppStatus, DrainingStatus, EndpointStatus, Event, Gate, GateState, Happening, Health, HoldStatus,
        Maintenance, NameStatus, Phase, Pin, PoolStatus, Receipt, ReplicaReceipt, SourceStatus,
    },
    switchboard::{NotRestored, Readers, Switch, SwitchOptions},
    waiting::{Bounds, NotAwaited, Waiting, WaitingRoom},
    warmth::{Cold, Warmth},
};
