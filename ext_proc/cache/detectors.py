"""Names of the detectors of personal data, as cache.yaml writes them."""

from __future__ import annotations

from typing import Final

EMAIL: Final = "email"
PHONE: Final = "phone"
PAYMENT_CARD: Final = "payment_card"
IBAN: Final = "iban"
NATIONAL_ID: Final = "national_id"
IP_ADDRESS: Final = "ip_address"
SECRET: Final = "secret"
DETECTORS: Final = frozenset({EMAIL, PHONE, PAYMENT_CARD, IBAN, NATIONAL_ID, IP_ADDRESS, SECRET})
