"""Marks that say that an image is synthetic: in XMP always, and as a signed C2PA manifest on request.

The mark is IPTC's digital source type. Sources: IPTC Photo Metadata standard; XMP specification, part 3; C2PA 2.
A C2PA signature holds a time and a random number, so signed images differ in their bytes from build to build.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

TRAINED = "trainedAlgorithmicMedia"
"""Made by a model that was trained on sampled content."""
ALGORITHMIC = "algorithmicMedia"
"""Made by an algorithm that was trained on nothing."""
NOT_SYNTHETIC = ""
"""No mark: a real image."""
REAL_PREFIX = "real images"
"""How the name of what "draws" them begins, in a recipe."""

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def is_synthetic(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe's declaration is of synthetic images, which carry a mark."""
    return not str(recipe.get("text_to_image", "")).startswith(REAL_PREFIX)


def xmp(iptc_source_type: str) -> bytes:
    """The XMP packet for an image of a digital source type."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{VOCABULARY}{iptc_source_type}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


@dataclass(frozen=True)
class C2PA:
    """Signs JPEG bytes with a C2PA manifest that says how the image was made (ES256, no thumbnail, no time stamp).

    Raises:
        UserError: c2pa-python is not installed, or certificate and key cannot be read or do not fit.
    """

    certificates: Path
    """PEM chain, the signer's first."""
    key: Path
    """PEM, PKCS #8, P-256."""

    def __call__(self, jpeg: bytes, iptc_source_type: str, maker: str) -> bytes:
        """The signed image; `maker` names what drew it."""
        import c2pa

        manifest = {
            "claim_generator_info": [{"name": "SynRep-Bench"}],
            "format": "image/jpeg",
            "title": maker,
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {
                        "actions": [
                            {
                                "action": "c2pa.created",
                                "digitalSourceType": f"{VOCABULARY}{iptc_source_type}",
                                "softwareAgent": {"name": maker},
                            }
                        ]
                    },
                }
            ],
        }
        signed = io.BytesIO()
        context, signer = _session(self)
        builder = c2pa.Builder(manifest, context=context)
        try:
            builder.sign(signer, "image/jpeg", io.BytesIO(jpeg), signed)
        except c2pa.C2paError as error:
            raise _unusable(self, error) from None
        return signed.getvalue()


@functools.lru_cache(maxsize=1)
def _session(c2pa_: C2PA) -> tuple[Any, Any]:
    try:
        import c2pa
    except ImportError:
        raise UserError("C2PA marks want the package c2pa-python; run `pip install 'synrep-bench[c2pa]'`") from None
    try:
        chain, key = c2pa_.certificates.read_bytes(), c2pa_.key.read_bytes()
    except OSError as error:
        reason = f"cannot read {error.filename}: {error.strerror}"
        raise UserError(f"{reason}; name a PEM certificate chain and its key") from None
    settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    try:
        info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=key, ta_url=None)
        return c2pa.Context(settings), c2pa.Signer.from_info(info)
    except c2pa.C2paError as error:
        raise _unusable(c2pa_, error) from None


def _unusable(c2pa_: C2PA, error: Exception) -> UserError:
    return UserError(f"{c2pa_.certificates} and {c2pa_.key} cannot sign ({error}); C2PA wants a chain for ES256")
