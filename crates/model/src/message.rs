//! Requests and responses: what `http`'s types say, around [`Fields`] in the place of a map.
//!
//! The names are those of `http`, so that whoever knows one knows the other; each becomes the other where a library takes
//! or gives it.

use http::{Extensions, Method, StatusCode, Uri, Version};

use crate::fields::Fields;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request<B> {
    head: RequestHead,
    body: B,
}

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

/// A response.
#[derive(Clone, Debug, Default)]
pub struct Response<B> {
    head: ResponseHead,
    body: B,
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

impl<B> Request<B> {
    /// `GET /` with this body.
    #[must_use]
    pub fn new(body: B) -> Request<B> {
        Request { head: RequestHead::default(), body }
    }

    /// Of its parts.
    #[must_use]
    pub fn from_parts(head: RequestHead, body: B) -> Request<B> {
        Request { head, body }
    }

    /// Its parts.
    #[must_use]
    pub fn into_parts(self) -> (RequestHead, B) {
        (self.head, self.body)
    }

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

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Its version, to change.
    pub fn version_mut(&mut self) -> &mut Version {
        &mut self.head.version
    }

    /// Its fields.
    #[must_use]
    pub fn headers(&self) -> &Fields {
        &self.head.headers
    }

    /// Its fields, to change.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.head.headers
    }

    /// What else is known of it, to change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.head.extensions
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
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Request<C> {
        Request { head: self.head, body: change(self.body) }
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

impl<B> Response<B> {
    /// 200 with this body.
    #[must_use]
    pub fn new(body: B) -> Response<B> {
        Response { head: ResponseHead::default(), body }
    }

    /// Of its parts.
    #[must_use]
    pub fn from_parts(head: ResponseHead, body: B) -> Response<B> {
        Response { head, body }
    }

    /// Its parts.
    #[must_use]
    pub fn into_parts(self) -> (ResponseHead, B) {
        (self.head, self.body)
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Its status, to change.
    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Its fields.
    #[must_use]
    pub fn headers(&self) -> &Fields {
        &self.head.headers
    }

    /// Its fields, to change.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.head.headers
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
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: change(self.body) }
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
