"""The links of sessions, and the links that a client of the original product builds from the API's data."""

from datetime import UTC, datetime

import pytest
from tests.support import factories

from tminus.api import answers
from tminus.config import Settings
from tminus.config.settings import Server
from tminus.domain.types import Caller, Role

NOW = datetime(2030, 1, 7, 9, tzinfo=UTC)
MONITOR = Caller(agent_id=11, name="M", external_id="", roles=frozenset({Role.MONITOR}))


def links_of_the_sdk(settings: Settings, session_id: str, pin: int, secret: str) -> dict[str, str]:
    """Build links from `widgetConfig` and the deployments, as the SDK of the original product does."""
    config = answers.widget_config(settings)["widgetConfig"]
    (deployment,) = answers.cobrowse_deployments(settings, NOW, NOW)
    return {
        "support": f"{config['activation_base_url']}{pin}",
        "support host": f"{config['viewer_base_url']}?{session_id}#token={secret}",
        "cobrowse": f"https://{deployment['entrypoint']}#cobrowse_pin={pin}",
        "live": f"{config['live_url']}?{session_id}",
        "live host": f"{config['live_url']}?{session_id}#token={secret}",
        "replay": f"{config['replay_url']}{session_id}",
    }


@pytest.mark.parametrize(
    ("user_url", "page", "pin"),
    [
        ("https://meet.example.com", "https://meet.example.com/", "https://meet.example.com/"),
        ("https://meet.example.com/", "https://meet.example.com/", "https://meet.example.com/"),
        ("https://example.com/support", "https://example.com/support/", "https://example.com/support/"),
        ("https://example.com:8443/a/b/", "https://example.com:8443/a/b/", "https://example.com:8443/a/b/"),
        ("https://example.com/v1.2", "https://example.com/v1.2/", "https://example.com/v1.2/"),
        ("https://example.com/acme.com", "https://example.com/acme.com/", "https://example.com/acme.com/"),
        ("https://example.html", "https://example.html/", "https://example.html/"),
        ("https://e.com/join/index.html", "https://e.com/join/index.html", "https://e.com/join/index.html?"),
        ("https://e.com/Join.ASPX", "https://e.com/Join.ASPX", "https://e.com/Join.ASPX?"),
    ],
)
def test_links_keep_the_path_and_the_file_of_the_configured_url(user_url: str, page: str, pin: str) -> None:
    server = Server(user_url=user_url, host_url="https://integration.example.com/viewer/index.html")
    settings = Settings(server=server)
    urls = server.urls()
    assert (urls.user_page, urls.pin_page) == (page, pin)
    assert urls.host_page == "https://integration.example.com/viewer/index.html"
    built = links_of_the_sdk(settings, "HUiUti", 137143, "s")
    assert built == {
        "support": f"{pin}137143",
        "support host": "https://integration.example.com/viewer/index.html?HUiUti#token=s",
        "cobrowse": f"{page.removesuffix('/') if page.count('/') == 3 else page}#cobrowse_pin=137143",
        "live": f"{page}?HUiUti",
        "live host": f"{page}?HUiUti#token=s",
        "replay": f"{page}?HUiUti",
    }


@pytest.mark.parametrize("suffix", ["?HUiUti", "137143"])
@pytest.mark.parametrize("page", ["https://e.com/", "https://e.com/a/b/", "https://e.com/join/index.html"])
def test_callers_who_may_not_see_the_pin_get_a_link_with_the_id(page: str, suffix: str) -> None:
    suffix = suffix if page.endswith("/") or suffix.startswith("?") else f"?{suffix}"
    session = factories.session(id="HUiUti", pin=137143, user_url=f"{page}{suffix}")
    assert answers.session(session, MONITOR, NOW)["urls"] == {"user": f"{page}?HUiUti"}
    downloads = answers.pin_meta(session)["client_info"]
    assert set(downloads.values()) == {page if page.endswith("/") else f"{page}?"}
