"""Certificates: what was claimed for which models and inputs, as a JSON document with a schema."""

from codesign.certificate.document import (
    SCHEMA_ID,
    certificate_document,
    hil_regions,
    load_certificate,
    validate_certificate,
    write_certificate,
)
from codesign.certificate.proof_file import digest, proof_content, proof_path, seal

__all__ = [
    "SCHEMA_ID",
    "certificate_document",
    "digest",
    "hil_regions",
    "load_certificate",
    "proof_content",
    "proof_path",
    "seal",
    "validate_certificate",
    "write_certificate",
]
