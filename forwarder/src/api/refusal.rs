//! What is answered when the answer is no.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a body may take to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(2);

/// The most that a request's body may have, in bytes.
const BODY_MAX: usize = 16 * 1024;
/// The most that is read of a body that is too large, in bytes: who writes no more than this reads
/// the refusal, and not that the connection broke.
const BODY_READ_MAX: usize = 1024 * 1024;

/// Why a request is refused: a status code, and what is wrong in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub status: StatusCode,
    /// For people.
    pub text: String,
}

/// The body of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
}

impl Refusal {
    /// Refuses with `status`, saying `text`.
    pub fn new(status: StatusCode, text: impl fmt::Display) -> Self {
        Self { status, text: text.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = axum::Json(ErrorBody { error: self.text });
        if self.status == StatusCode::UNAUTHORIZED {
            return (self.status, [(WWW_AUTHENTICATE, "Bearer")], body).into_response();
        }
        (self.status, body).into_response()
    }
}

/// A body of JSON, either way. One that is wrong, or does not come, is refused like everything else.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let read = async {
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, whole(body).await?);
            Ok(<axum::Json<T> as FromRequest<S>>::from_request(request, state).await?)
        };
        match tokio::time::timeout(BODY_TIME_MAX, read).await {
            Ok(read) => read.map(|axum::Json(value)| Self(value)),
            Err(_elapsed) => {
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body does not come"))
            }
        }
    }
}

/// The whole of `body`, unless it is too large.
async fn whole(mut body: Body) -> Result<Body, Refusal> {
    let (mut bytes, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error))?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        if read <= BODY_MAX {
            bytes.extend_from_slice(&data);
        } else if read > BODY_READ_MAX {
            break;
        }
    }
    if read > BODY_MAX {
        let text = format!("the body has more than {BODY_MAX} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(bytes.into())
}

/// A body that may be left out, its type with it.
impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Refusal> {
        if !request.headers().contains_key(CONTENT_TYPE) {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
