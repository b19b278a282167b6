"""Whose a request at the ComfyUI listener is, without accounts."""

from __future__ import annotations

import pytest
from django.test import RequestFactory
from pytest_django import Settings

from jobgroups.api.listener.owner import owner_of


def owner(address: str, user: str = "") -> str:
    return owner_of(RequestFactory().get("/", REMOTE_ADDR=address, headers={"Comfy-User": user}))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_all_loopback_addresses_are_one_machine(address: str) -> None:
    assert owner(address) == "localhost"


def test_an_owner_is_an_address_and_a_user() -> None:
    owners = [
        owner("10.0.0.4"),
        owner("::ffff:10.0.0.4"),
        owner("10.0.0.4", "anna"),
        owner("fe80::1%eth0"),
    ]
    assert owners == ["10.0.0.4", "10.0.0.4", "10.0.0.4 anna", "fe80::1"]


def test_all_who_have_the_shared_token_are_one_owner(settings: Settings) -> None:
    settings.DIRECTOR_TOKEN = "a-long-shared-secret"
    assert owner("10.0.0.4", "anna") == owner("10.0.0.5") == "token"
