//! The digests of `data-integrity-alg`, `csums-alg` and `verify-alg` (wire.md 5.1), and the keyed
//! ones of `cram-hmac-alg` (wire.md 3.2).

use md5::Md5;
use ring::hmac as keyed;

/// Block length of the HMAC construction for MD5.
const MD5_BLOCK_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Crc32c,
    Md5,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::Crc32c, Self::Md5, Self::Sha1, Self::Sha256];

    /// By the name that configurations and packets use.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// Bytes of a digest.
    pub const fn length(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Whether [`hmac`] takes it: a checksum has no keyed form, as it can be forged.
    pub const fn can_authenticate(self) -> bool {
        !matches!(self, Self::Crc32c)
    }

    /// The digest as it is on the wire; CRC-32C is little-endian there.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        let with_ring = |algorithm| ring::digest::digest(algorithm, data).as_ref().to_vec();
        match self {
            Self::Crc32c => crc32c::crc32c(data).to_le_bytes().to_vec(),
            Self::Md5 => <Md5 as md5::Digest>::digest(data).to_vec(),
            Self::Sha1 => with_ring(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => with_ring(&ring::digest::SHA256),
        }
    }
}

/// HMAC of `message`.
///
/// # Panics
///
/// For an algorithm that cannot authenticate: a configuration that names one must not get this far.
pub fn hmac(algorithm: Algorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    let with_ring =
        |algorithm| keyed::sign(&keyed::Key::new(algorithm, key), message).as_ref().to_vec();
    match algorithm {
        Algorithm::Crc32c => panic!("crc32c has no keyed form"),
        Algorithm::Md5 => hmac_md5(key, message),
        Algorithm::Sha1 => with_ring(keyed::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        Algorithm::Sha256 => with_ring(keyed::HMAC_SHA256),
    }
}

/// RFC 2104.
fn hmac_md5(key: &[u8], message: &[u8]) -> Vec<u8> {
    use md5::Digest;
    let mut block = [0u8; MD5_BLOCK_BYTES];
    if key.len() > MD5_BLOCK_BYTES {
        let hashed = Md5::digest(key);
        block[..hashed.len()].copy_from_slice(&hashed);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Md5::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message);
    let outer = Md5::new().chain_update(block.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn digests_of_the_standard_check_strings() {
        let expected = [
            (Algorithm::Crc32c, "839206e3"),
            (Algorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ];
        for (algorithm, digest) in expected {
            assert_eq!(hex(&algorithm.digest(b"123456789")), digest);
            assert_eq!(digest.len(), algorithm.length() * 2);
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_name("sha512"), None);
    }

    /// RFC 2202 and RFC 4231: short key, and a key longer than the block.
    #[test]
    fn keyed_digests_of_the_rfcs() {
        let message = b"what do ya want for nothing?";
        let short = [
            (Algorithm::Md5, "750c783e6ab0b503eaa86e310a5db738"),
            (Algorithm::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (Algorithm::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ];
        for (algorithm, expected) in short {
            assert_eq!(hex(&hmac(algorithm, b"Jefe", message)), expected);
        }
        let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let long = hmac(Algorithm::Md5, &[0xaa; 80], message);
        assert_eq!(hex(&long), "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd");
    }
}
