//! A body that can be begun again. Its first pieces are kept while nobody can tell whether they will be wanted once more,
//! up to a limit: on HTTP/2 an upstream may refuse a request without having looked at it when some of its body has left
//! already, and it would be a pity to lose it for that.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The most that is kept of a body, in octets. The pieces are shared with the buffers they came in, not copied.
const MOST: usize = 64 * 1024;
/// The most pieces that are kept: a piece costs memory however short it is.
const MOST_PIECES: usize = 64;

/// A body, and what is kept of it.
pub(super) struct Replay<B> {
    body: B,
    kept: Vec<Piece>,
    /// How many of those have been given since it was last begun.
    given: usize,
    keeps: bool,
    /// Something that was given is not kept: it cannot be begun again.
    lost: bool,
    /// Nothing follows what is kept.
    ended: bool,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl<B> Replay<B> {
    /// Of a body that has not begun. It keeps nothing until it is told to.
    pub(super) fn new(body: B) -> Self {
        Self { body, kept: Vec::new(), given: 0, keeps: false, lost: false, ended: false }
    }

    /// From now on, keeps what it gives.
    pub(super) fn keep(&mut self) {
        self.keeps = !self.lost;
    }

    /// It will not be wanted again.
    pub(super) fn forget(&mut self) {
        self.kept.drain(..self.given);
        (self.given, self.keeps, self.lost) = (0, false, true);
    }

    /// Begins it again, if it can be.
    pub(super) fn rewind(&mut self) -> bool {
        self.given = 0;
        !self.lost
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        let octets: usize = self.kept.iter().chain([&piece]).map(Piece::octets).sum();
        if self.keeps && octets <= MOST && self.kept.len() < MOST_PIECES {
            self.kept.push(piece);
            self.given += 1;
        } else {
            self.forget();
        }
    }
}

impl Piece {
    fn octets(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(piece) = this.kept.get(this.given) {
            this.given += 1;
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => this.note(frame),
            Some(Err(_)) | None => this.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.given == self.kept.len() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept: usize = self.kept[self.given..].iter().map(Piece::octets).sum();
        let (kept, rest) = (kept as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use http_body_util::StreamBody;

    use super::*;

    fn body(pieces: &[usize]) -> Replay<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().expect("a value"));
        let data = pieces.iter().map(|octets| Frame::data(Bytes::from(vec![b'x'; *octets])));
        let frames: Vec<_> = data.chain([Frame::trailers(trailers)]).map(Ok).collect();
        Replay::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    /// How many octets, and whether trailers, come until the end.
    async fn rest(body: &mut Replay<impl Body<Data = Bytes, Error = Infallible> + Unpin>) -> (usize, bool) {
        let (mut octets, mut trailers) = (0, false);
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            octets += frame.data_ref().map_or(0, Bytes::len);
            trailers |= frame.is_trailers();
        }
        (octets, trailers)
    }

    #[tokio::test]
    async fn what_was_kept_comes_again_and_then_the_rest() {
        let mut body = body(&[10, 20, 30]);
        body.keep();
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.expect("a piece").expect("no error");
        for _ in 0..3 {
            assert!(body.rewind());
            assert_eq!(rest(&mut body).await, (60, true));
        }
    }

    #[tokio::test]
    async fn what_was_not_kept_is_not_passed_off_as_whole() {
        // It was not told to keep; it is too long; it is in too many pieces; it was told to forget.
        for (pieces, keeps, forgets) in [
            (&[1][..], false, false),
            (&[MOST, 1], true, false),
            (&[1; MOST_PIECES + 1], true, false),
            (&[1], true, true),
        ] {
            let mut body = body(pieces);
            if keeps {
                body.keep();
            }
            assert_eq!(rest(&mut body).await, (pieces.iter().sum(), true), "{}", pieces.len());
            if forgets {
                body.forget();
            }
            assert!(!body.rewind() && body.kept.is_empty(), "{}", pieces.len());
        }
    }

    #[tokio::test]
    async fn what_is_still_to_be_given_again_outlives_that_it_need_not_be_kept() {
        let mut body = body(&[10, 20]);
        body.keep();
        rest(&mut body).await;
        assert!(body.rewind());
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.expect("a piece").expect("no error");
        body.forget();
        assert_eq!(rest(&mut body).await, (20, true));
    }
}
