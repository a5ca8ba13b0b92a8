//! The answers are in `tests/questions`; here is what no single policy can show.

use proptest::prelude::*;

use super::*;
use crate::policy::validate::validate;
use crate::source::SourceFile;
use crate::subject::Subject;
