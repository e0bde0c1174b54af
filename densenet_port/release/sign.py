"""The signature of a manifest: made and checked with a key pair, by the package model-signing, offline.

`manifest.json.sig` is a Sigstore bundle (JSON) around the manifest's SHA-256 and an ECDSA signature of it. Since the
manifest has the digest of every other file, the signature covers the release. Keys are PEM files of the curves that
model-signing takes (P-256, P-384, P-521), the private one without a password:

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from densenet_port.errors import ComparisonError, UsageError
from densenet_port.extras import framework
from densenet_port.fetch.manifest import SIGNATURE
from densenet_port.files import whole


def sign(manifest: Path, key: Path) -> Path:
    """Sign a manifest with a private key; the signature's path, beside it.

    Raises UsageError when model-signing is missing or takes no such key, DiskError when nothing can be written. Two
    signatures of the same bytes differ, because ECDSA draws a random number for each.
    """
    config = framework("model_signing.signing").Config()
    place = manifest.with_name(SIGNATURE)
    with whole(place) as temporary:
        try:
            config.use_elliptic_key_signer(private_key=key).sign(manifest, temporary)
        except Exception as error:
            raise UsageError(f"{key}: cannot sign: {_reason(error)}", hint="see `openssl ecparam -genkey`") from error
    return place


def check_signature(manifest: Path, signature: Path, key: Path) -> None:
    """Whether a signature is that of the manifest by the owner of a public key.

    Raises ComparisonError when it is not, UsageError when model-signing is missing or takes no such key.
    """
    config = framework("model_signing.verifying").Config()
    try:
        config.use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise UsageError(f"{key}: no public key that can be used: {_reason(error)}") from error
    try:
        config.verify(manifest, signature)
    except Exception as error:
        hint = "it was made by another key, or the manifest is not the one that was signed"
        raise ComparisonError(f"{signature}: does not sign {manifest.name}: {_reason(error)}", hint=hint) from error


def signed_by(manifest: Path, signature: Path, key: Path) -> bool:
    """Whether a signature is that of the manifest by the owner of a private key. Raises UsageError."""
    with TemporaryDirectory(prefix="densenet-port-") as place:
        public = Path(place) / "key.pub"
        public.write_bytes(_public(key))
        try:
            check_signature(manifest, signature, public)
        except ComparisonError:
            return False
        return True


def _public(key: Path) -> bytes:
    """The public key of a private one, as PEM."""
    serialization = framework("cryptography.hazmat.primitives.serialization")
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except Exception as error:
        raise UsageError(f"{key}: cannot sign: {_reason(error)}", hint="see `openssl ecparam -genkey`") from error
    return bytes(public)


def _reason(error: Exception) -> str:
    """An error of the library on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
