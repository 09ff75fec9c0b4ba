//! Requests and responses: what `http`'s types say, around [`Fields`] in the place of a map.
//!
//! The names are those of `http`, so that whoever knows one knows the other; each becomes the other where a library takes
//! or gives it.

use http::{Extensions, Method, StatusCode, Uri, Version};

use crate::fields::Fields;

/// A head and a body: a [`Request`] or a [`Response`].
#[derive(Clone, Debug, Default)]
pub struct Message<H, B> {
    head: H,
    body: B,
}

/// A request.
pub type Request<B> = Message<RequestHead, B>;

/// A response.
pub type Response<B> = Message<ResponseHead, B>;

/// All of a request but its body.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// The version of HTTP it came by, or is to go by.
    pub version: Version,
    /// Its fields.
    pub headers: Fields,
    /// What else is known of it.
    pub extensions: Extensions,
}

/// All of a response but its body.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Its status.
    pub status: StatusCode,
    /// The version of HTTP it came by.
    pub version: Version,
    /// Its fields.
    pub headers: Fields,
}

/// What the heads of both have.
pub trait Head: Default {
    /// The version of HTTP.
    fn version(&self) -> Version;
    /// The fields.
    fn headers(&self) -> &Fields;
    /// The fields, to change.
    fn headers_mut(&mut self) -> &mut Fields;
}

macro_rules! head {
    ($head:ty) => {
        impl Head for $head {
            fn version(&self) -> Version {
                self.version
            }

            fn headers(&self) -> &Fields {
                &self.headers
            }

            fn headers_mut(&mut self) -> &mut Fields {
                &mut self.headers
            }
        }
    };
}
head!(RequestHead);
head!(ResponseHead);

impl<H: Head, B> Message<H, B> {
    /// With this body: `GET /`, or 200.
    #[must_use]
    pub fn new(body: B) -> Message<H, B> {
        Message { head: H::default(), body }
    }

    /// Of its parts.
    #[must_use]
    pub fn from_parts(head: H, body: B) -> Message<H, B> {
        Message { head, body }
    }

    /// Its parts.
    #[must_use]
    pub fn into_parts(self) -> (H, B) {
        (self.head, self.body)
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head.version()
    }

    /// Its fields.
    #[must_use]
    pub fn headers(&self) -> &Fields {
        self.head.headers()
    }

    /// Its fields, to change.
    pub fn headers_mut(&mut self) -> &mut Fields {
        self.head.headers_mut()
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &B {
        &self.body
    }

    /// Its body, to change.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Its body alone.
    #[must_use]
    pub fn into_body(self) -> B {
        self.body
    }

    /// The same with another body.
    #[must_use]
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Message<H, C> {
        Message { head: self.head, body: change(self.body) }
    }
}

impl<B> Message<RequestHead, B> {
    /// Its method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Its method, to change.
    pub fn method_mut(&mut self) -> &mut Method {
        &mut self.head.method
    }

    /// Its target.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// Its target, to change.
    pub fn uri_mut(&mut self) -> &mut Uri {
        &mut self.head.uri
    }

    /// Its version, to change.
    pub fn version_mut(&mut self) -> &mut Version {
        &mut self.head.version
    }

    /// What else is known of it, to change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.head.extensions
    }
}

impl<B> Message<ResponseHead, B> {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Its status, to change.
    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }
}

impl<B> From<http::Request<B>> for Request<B> {
    fn from(request: http::Request<B>) -> Request<B> {
        let (parts, body) = request.into_parts();
        let http::request::Parts { method, uri, version, extensions, .. } = parts;
        let headers = Fields::from(&parts.headers);
        Request { head: RequestHead { method, uri, version, headers, extensions }, body }
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Response<B> {
        let (parts, body) = response.into_parts();
        let (status, version, headers) = (parts.status, parts.version, Fields::from(&parts.headers));
        Response { head: ResponseHead { status, version, headers }, body }
    }
}

impl<B> From<Response<B>> for http::Response<B> {
    fn from(response: Response<B>) -> http::Response<B> {
        let Response { head: ResponseHead { status, version, headers }, body } = response;
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        *response.version_mut() = version;
        *response.headers_mut() = headers.into_map();
        response
    }
}
