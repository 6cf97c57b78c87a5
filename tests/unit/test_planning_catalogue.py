"""The table of machine types: every price with date and source, own rows beside the shipped ones."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from referee.challenge import MachineType
from referee.errors import ConfigurationError
from referee.planning.catalogue import (
    HISTORICAL,
    SHIPPED,
    Offer,
    own_offers,
    parse_catalogue,
    shipped_catalogue,
    this_machine,
)
from referee.planning.money import dollars

GIB = 2**30


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_price_is_positive_and_carries_its_date_and_source(name: str) -> None:
    catalogue = shipped_catalogue(name)
    assert len(catalogue.offers) > 40
    for offer in catalogue.offers.values():
        assert offer.price > 0
        assert offer.price_date is not None
        assert "apache-libcloud" in offer.price_source
        assert offer.region == "us-east-1"
        assert offer.spot_price is None or offer.spot_price < offer.price


@pytest.mark.parametrize("name", SHIPPED)
def test_within_a_family_a_larger_machine_costs_more(name: str) -> None:
    families: dict[str, list[Offer]] = {}
    for type_name, offer in shipped_catalogue(name).offers.items():
        families.setdefault(type_name.split(".")[0], []).append(offer)
    for family, offers in families.items():
        ordered = sorted((offer.gpus, offer.cpus, offer.price) for offer in offers)
        prices = [price for _, _, price in ordered]
        assert family in {"g4dn", "g5"} or prices == sorted(prices)


def test_what_has_no_clean_source_is_left_out() -> None:
    families = {name.split(".")[0] for each in SHIPPED for name in shipped_catalogue(each).offers}
    assert not families & {"g6", "p5", "c7i", "c7g", "g4ad"}


def test_the_prices_of_the_case_are_those_of_its_date() -> None:
    catalogue = shipped_catalogue(HISTORICAL)
    assert {name: catalogue.offer(name).price for name in ("g4dn.xlarge", "p3.2xlarge", "c4.4xlarge", "c5.xlarge")} == {
        "g4dn.xlarge": Decimal("0.526"),
        "p3.2xlarge": Decimal("3.06"),
        "c4.4xlarge": Decimal("0.796"),
        "c5.xlarge": Decimal("0.17"),
    }
    assert catalogue.offer("g4dn.xlarge").price_date == date(2020, 8, 30)
    assert catalogue.offer("g4dn.xlarge").spot_price == Decimal("0.1578")
    assert catalogue.offer("g4dn.xlarge").spot_date == date(2021, 4, 1)
    bill = 25_000 * Decimal("0.526") + 800 * Decimal("3.06") + 5_000 * Decimal("0.796")
    assert bill == 19_578


def test_a_v100_has_slightly_more_memory_to_use_than_a_t4_although_both_are_sold_as_16_gib() -> None:
    catalogue = shipped_catalogue(HISTORICAL)
    t4, v100 = catalogue.offer("g4dn.xlarge"), catalogue.offer("p3.2xlarge")
    assert t4.gpu_memory == v100.gpu_memory == 16 * GIB
    assert t4.gpu_memory_bytes < v100.gpu_memory_bytes


def test_billing_is_by_the_second_with_a_minimum_of_a_minute() -> None:
    offer = shipped_catalogue().offer("g4dn.xlarge")
    assert offer.billed_hours(1.5 / 3600) == pytest.approx(60 / 3600)
    assert offer.billed_hours(100.2 / 3600) == pytest.approx(101 / 3600)
    assert offer.billed_hours(2.0) == pytest.approx(2.0)
    hourly = offer.model_copy(update={"billing_granularity": timedelta(hours=1)})
    assert hourly.billed_hours(1.01) == pytest.approx(2.0)


def test_own_rows_stand_in_the_same_table_and_win() -> None:
    own = own_offers(
        {
            "lab": MachineType(cpus=32, memory=64 * GIB, gpus=2, gpu_memory=24 * GIB, price=Decimal("0.05")),
            "c5.xlarge": MachineType(cpus=4, memory=8 * GIB, price=Decimal("0.20"), spot_price=Decimal("0.10")),
        }
    )
    table = shipped_catalogue().joined(own)
    assert next(iter(table.offers)) == "lab"
    assert table.offer("lab").price_source == "challenge.toml"
    assert table.offer("c5.xlarge").price == Decimal("0.20")
    assert table.offer("c5.xlarge").spot_source == "challenge.toml"
    assert this_machine(2, 4 * GIB).price == 0
    assert this_machine(2, 4 * GIB).count == 1


def test_an_own_machine_with_gpus_must_say_how_much_memory_they_have() -> None:
    with pytest.raises(ConfigurationError, match="gpu_memory"):
        own_offers({"lab": MachineType(cpus=8, memory=8 * GIB, gpus=1)})


def test_an_unknown_type_is_answered_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"\[machines"):
        shipped_catalogue().offer("g6.xlarge")
    with pytest.raises(ConfigurationError, match="aws-2020-08"):
        shipped_catalogue("aws-1999")


def test_a_price_without_a_source_is_refused() -> None:
    with pytest.raises(ValidationError):
        parse_catalogue('[catalogue]\nname = "x"\n[machines]\n"a" = { cpus = 1, memory = "1GiB", price = "0.1" }\n')


def test_money_is_rounded_to_a_cent_and_never_infinite() -> None:
    assert dollars(19_578.005) == Decimal("19578.01")
    with pytest.raises(ValueError, match="not an amount"):
        dollars(float("inf"))
