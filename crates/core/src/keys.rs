//! Typed NKEYs: public keys, signing, strict verification.
//!
//! The encoding (base32, prefix, checksum) is the `nkeys` crate's. Signing and verifying are not:
//! that crate verifies non-strictly (a small-order key verifies a forged signature on any
//! message) and never wipes a seed. Verification here is `ed25519-dalek`'s, as strict as its
//! `verify_strict`; signing is `aws-lc-rs`, together the fastest pair measured.
//!
//! Nothing secret is in any `Debug`, `Display` or error of this module.
//!
//! - `nkey` has the texts: public keys and seeds;
//! - `signature` signs and verifies;
//! - `holder` signs with a key that may not be in this process;
//! - `curve` has the keys that seal.

mod curve;
mod holder;
mod nkey;
mod signature;

pub use self::curve::CurveSecret;
pub use self::holder::{AccountSigner, KeyHolder, SignError, Signs};
pub use self::nkey::{
    Account, AccountKey, Curve, CurveKey, KeyError, Operator, PUBLIC_KEY_CHARS, PublicKey, Role,
    Seed, Server, ServerKey, User, UserKey,
};
pub use self::signature::{BadSignature, Signer, Verifier};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_agrees_with_the_nkeys_crate() {
        for _ in 0..20 {
            let seed = Seed::<Account>::generate();
            let theirs = nkeys::KeyPair::from_seed(seed.expose()).unwrap();
            let signer = Signer::new(&seed).unwrap();
            assert_eq!(signer.public().as_str(), theirs.public_key());
            let signature = signer.sign(b"message");
            theirs.verify(b"message", &signature).unwrap();
            signer.public().verify(b"message", &signature).unwrap();
            assert_eq!(signer.public().verify(b"massage", &signature), Err(BadSignature));

            let seed = Seed::<Curve>::generate();
            let theirs = nkeys::XKey::from_seed(seed.expose()).unwrap();
            let secret = CurveSecret::new(&seed).unwrap();
            assert_eq!(secret.public().as_str(), theirs.public_key());
        }
    }

    #[test]
    fn no_secret_in_debug_or_errors() {
        let seed = Seed::<Account>::generate();
        let signer = Signer::new(&seed).unwrap();
        let curve = CurveSecret::new(&Seed::generate()).unwrap();
        let printed = format!("{seed:?} {signer:?} {curve:?}");
        assert!(!printed.contains(seed.expose()));
        let damaged = format!("{}A", &seed.expose()[..57]);
        if let Err(error) = Seed::<Account>::parse(&damaged) {
            assert!(!format!("{error} {error:?}").contains(&seed.expose()[..20]));
        }
    }
}
