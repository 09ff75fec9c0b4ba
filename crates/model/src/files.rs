//! Static files: which file a path means, which of its codings answers, and how its state is told.
//!
//! ```text
//! path --- name: the one file that it can mean, or none --> looked for below the root
//! Accept-Encoding --- crate::coding: which compressed siblings would do, the best first
//! length and times --- stamp: ETag, Last-Modified, and whether a file is still what it was
//! If-Match and its like --- condition: the file, or that nothing has changed, or that it is another
//! ```
//!
//! Pure: nothing here opens a file. That a name cannot lead out of the root by what it says is decided here; that it does
//! not lead out by what is on the disk (symbolic links) is the kernel's part, where it is opened.

pub mod condition;
pub mod name;
pub mod stamp;
