"What axe-core, the engine of Deque, finds between a page and whoever cannot see it."


def barriers(page) -> list[tuple[str, str]]:
    "Return the rule and the element of everything found; contrast is measured apart, in both schemes."
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": False}}}).response["violations"]
    return [(v["id"], node["html"][:160]) for v in found for node in v["nodes"]]
