"""Host names of Stack Exchange's sites, by the names that archives and folders of dumps have."""

from __future__ import annotations

from collections.abc import Mapping

from data_pipeline.text.decoding import word_set

_OWN_DOMAINS: Mapping[str, str] = {
    **{name: f"{name}.com" for name in ("stackoverflow", "superuser", "serverfault", "askubuntu")},
    **{"stackapps": "stackapps.com", "mathoverflow": "mathoverflow.net"},
}
_SITES = word_set(
    """
    3dprinting academia ai alcohol android anime apple arduino area51 astronomy augur aviation avp
    beer bicycles bioacoustics bioinformatics biology bitcoin blender boardgames bricks buddhism
    cardano chemistry chess chinese christianity civicrm codegolf codereview coffee cogsci
    communitybuilding computergraphics conlang cooking craftcms crafts crypto cs cs50 cseducators
    cstheory datascience dba devops diy drones drupal dsp earthscience ebooks economics electronics
    elementaryos ell emacs engineering english eosio esperanto ethereum expatriates
    expressionengine fitness freelancing french gamedev gaming gardening genai genealogy german gis
    graphicdesign ham hardwarerecs health hermeneutics hinduism history homebrew hsm interpersonal
    iot iota islam italian japanese joomla judaism korean langdev languagelearning latin law
    lifehacks linguistics literature magento martialarts materials math matheducators mathematica
    mattermodeling mechanics medicalsciences meta moderators monero money movies music musicfans
    mythology networkengineering opendata opensource or outdoors parenting patents pets philosophy
    photo physics pm poker politics portuguese productivity programmers proofassistants psychology
    puzzling quant quantumcomputing raspberrypi retrocomputing reverseengineering robotics rpg rus
    russian salesforce scicomp scifi security sharepoint sitecore skeptics softwareengineering
    softwarerecs solana sound space spanish sports sqa startups stats stellar substrate
    sustainability tex tezos theoreticalphysics tor travel tridion ukrainian unix ux vegetarianism
    vi webapps webmasters windowsphone woodworking wordpress workplace worldbuilding writers writing
    """
)
"""Sites below stackexchange.com, closed ones included (https://stackexchange.com/sites)."""


def host_of_site(name: str) -> str | None:
    """The host name of a site, by its name in lower case: "gis", "gis.meta", "pt.stackoverflow",
    "math.stackexchange.com"; None if the name is not that of a site."""
    if name.endswith((".com", ".net", ".org")):
        return name
    if name in _OWN_DOMAINS:
        return _OWN_DOMAINS[name]
    first, _, second = name.partition(".")
    if first == "meta" and second in _OWN_DOMAINS:
        return f"meta.{_OWN_DOMAINS[second]}"
    if second in ("stackoverflow", "stackexchange"):
        return f"{name}.com"
    if first in _SITES and second in ("", "meta"):
        return f"{name}.stackexchange.com"
    return None
