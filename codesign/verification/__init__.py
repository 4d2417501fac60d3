"""Verification: sound bounds on |integer network - float network| over regions of inputs, and adversarial search.

The method is a joint differential zonotope: one pool of noise symbols carries the float state and its difference in the
integer network through the whole computation, every rounding, table error and saturation of the integer side included.
"""

from codesign.verification.audit import ProofMode, ProofSummary
from codesign.verification.certify import certify
from codesign.verification.criteria import Criteria, Status
from codesign.verification.regions import (
    Region,
    ball,
    domain_region,
    grid_ball,
    input_domain,
    noisy,
    outside,
    require_inside,
)
from codesign.verification.results import Certification, Options, RegionResult
from codesign.verification.search import SearchResult, search
from codesign.verification.selection import Neighbourhood, RegionKind, Selection, parse_radius, select

__all__ = [
    "Certification",
    "Criteria",
    "Neighbourhood",
    "Options",
    "ProofMode",
    "ProofSummary",
    "Region",
    "RegionKind",
    "RegionResult",
    "SearchResult",
    "Selection",
    "Status",
    "ball",
    "certify",
    "domain_region",
    "grid_ball",
    "input_domain",
    "noisy",
    "outside",
    "parse_radius",
    "require_inside",
    "search",
    "select",
]
