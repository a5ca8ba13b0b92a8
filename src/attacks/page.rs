//! The page of the documentation that the suite renders: every attack and what came of it.
