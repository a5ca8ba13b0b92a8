//! s
pub fn policy() -> String {
    String::new()
}
pub fn settings() -> String {
    String::new()
}
