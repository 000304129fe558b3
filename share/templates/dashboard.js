export function render({ model, el }) {
  if (model.shell) {                       // in a notebook: the page is drawn here; in a browser it is there already
    el.innerHTML = model.shell
    el.addEventListener("click", e => e.target.closest("a[href^='#']") && e.preventDefault())
  }
  const page = model.shell ? el : document
  const $ = s => page.querySelector(s)
  const root = $("#carnet"), html = document.documentElement
  const send = m => model.send_msg(m)
  let heard = Date.now(), asking = null, askedOf

  // --- what the server sends ------------------------------------------------------------------------------------------------------
  const named = (list, text) => {          // a name for each of them, by which it is found in the part that is written again
    const seen = {}
    return list.map(e => { const name = `${e.closest("section")?.id} ${e.localName} ${text(e)}`; return `${name} ${seen[name] = (seen[name] ?? 0) + 1}` })
  }
  function put(box, text) {                // write a part again; what somebody opened, typed or points at stays
    const all = q => [...box.querySelectorAll(q)], words = e => e.id || e.name || e.textContent
    const unfolded = () => { const found = all("details"); return found.map((d, i) => [named(found, d => words(d.querySelector("summary") ?? d))[i], d]) }
    const open = new Map(unfolded().map(([name, d]) => [name, d.open]))
    const kept = all("form[data-dirty]"), drawn = all("[data-chart][data-drawn]")
    const things = "a, button, input, select, textarea, summary"
    const active = page.activeElement ?? document.activeElement, at = named(all(things), words)[all(things).indexOf(active)]
    box.innerHTML = text
    for (const form of kept) box.querySelector(`form[data-form="${CSS.escape(form.dataset.form)}"]`)?.replaceWith(form)
    for (const chart of drawn) box.querySelector(`[data-chart="${CSS.escape(chart.dataset.chart)}"]`)?.replaceWith(chart)
    for (const [name, d] of unfolded()) if (open.has(name)) d.open = open.get(name)
    if (at) (kept.some(f => f.contains(active)) ? active : all(things)[named(all(things), words).indexOf(at)])?.focus({ preventScroll: true })
  }

  function show(screen) {
    const same = !screen.moved && root.dataset.at === screen.at
    root.dataset.at = screen.at
    $("#title").textContent = screen.title
    $("#aside").textContent = screen.aside
    if (!model.shell) document.title = `${screen.title} · Carnet`
    for (const a of page.querySelectorAll("#screens a"))
      a.search === `?at=${screen.at}` ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current")
    if (same) put($("#parts"), screen.sections)
    else { $("#parts").innerHTML = screen.sections; closeMenu() }
    if (screen.moved) { window.scrollTo(0, 0); $("#main").focus({ preventScroll: true }) }
    frames()
  }

  function notify(text, kind) {
    const line = document.createElement("p")
    line.className = kind
    line.textContent = text
    const close = document.createElement("button")
    close.textContent = "Close"
    close.onclick = () => line.remove()
    line.append(close)
    $("#notices").append(line)
    if (kind !== "bad") setTimeout(() => line.remove(), 8000)
  }

  model.on("msg:custom", e => {
    const m = e.data ?? e
    heard = Date.now()
    if (m.screen) show(m.screen)
    if (m.profile !== undefined) root.dataset.profile = m.profile   // what is shown is of this profile, and so is what is pressed there
    for (const [key, text] of Object.entries(m.parts ?? {})) {
      const box = $(`#${CSS.escape(key)}`)
      if (box) put(box, text)
    }
    if (m.parts) frames()
    if (m.notice) notify(m.notice.text, m.notice.kind)
    if (m.free) {
      for (const b of page.querySelectorAll("[aria-busy]")) { b.removeAttribute("aria-busy"); b.disabled = false }
      for (const form of page.querySelectorAll("form[data-sent]")) {   // what was refused stays as it was typed
        form.removeAttribute("data-sent")
        if (m.notice?.kind !== "bad") form.removeAttribute("data-dirty")
      }
    }
    if (m.signed_out) location.assign(m.signed_out)
  })

  const dark = () => (html.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark"
  function frames() {                      // reports and charts come after the page; a report never runs anything
    for (const c of page.querySelectorAll("[data-chart]:not([data-drawn])")) {
      c.dataset.drawn = "asked"
      send({ chart: c.dataset.chart, dark: dark(), wide: c.clientWidth > 620 })
    }
    for (const f of page.querySelectorAll("iframe[data-report]:not([srcdoc])")) send({ report: f.dataset.report })
  }
  model.on("msg:custom", e => {
    const m = e.data ?? e
    if (m.chart) {
      const c = $(`[data-chart="${CSS.escape(m.chart.key)}"]`)
      if (c && m.chart.error) c.innerHTML = "", c.append(Object.assign(document.createElement("p"), { className: "missing", textContent: m.chart.error }))
      else if (c) { c.innerHTML = ""; window.Bokeh.embed.embed_item(m.chart.item, c).catch(error => { if (c.isConnected) throw error }) }  // gone meanwhile: to another screen
    }
    if (m.report) { const f = $(`iframe[data-report="${CSS.escape(m.report.key)}"]`); if (f) f.srcdoc = m.report.page }
  })

  // --- what a person does ---------------------------------------------------------------------------------------------------------
  function go(search, push = true) {
    const wanted = new URLSearchParams(search), chosen = $("#profile")?.value
    if (chosen && !wanted.has("profile") && new URLSearchParams(location.search).has("profile")) search = `?${wanted}&profile=${encodeURIComponent(chosen)}`
    const portfolio = new URLSearchParams(location.search).get("portfolio")
    if (portfolio && !new URLSearchParams(search).has("portfolio")) search = `?${new URLSearchParams(search)}&portfolio=${encodeURIComponent(portfolio)}`
    send({ go: Object.fromEntries(new URLSearchParams(search)) })
    if (push && !model.shell) history.pushState(null, "", search)
  }
  if (!model.shell) window.addEventListener("popstate", () => go(location.search || "?at=today", false))

  function act(button, name, values, profile = root.dataset.profile) {
    if (button) { button.setAttribute("aria-busy", "true"); button.disabled = true }
    send({ act: name, values, profile, key: crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2) })
  }

  function ask(button) {
    const dialog = $("#ask"), field = $("#ask-field"), reason = $("#ask-reason")
    $("#ask-text").textContent = button.dataset.ask
    $("#ask-yes").textContent = button.textContent
    $("#ask-yes").className = button.classList.contains("danger") ? "danger" : "main"
    field.hidden = !button.dataset.reason
    reason.required = !!button.dataset.reason && button.dataset.act !== "kill"  // nothing keeps anybody from stopping
    reason.value = ""
    field.querySelector("label").textContent = button.dataset.reason ?? ""
    asking = button
    askedOf = root.dataset.profile          // wherever the page goes while the question is open
    dialog.returnValue = ""
    dialog.showModal()
    ;(button.dataset.reason ? reason : $("#ask-yes")).focus()
  }
  $("#ask").addEventListener("close", () => {
    if ($("#ask").returnValue === "yes" && asking)
      act(asking, asking.dataset.act, { ...JSON.parse(asking.dataset.values), reason: $("#ask-reason").value }, askedOf)
    asking?.focus?.()
    asking = null
  })

  root.addEventListener("click", e => {
    const link = e.target.closest("a[data-go], #parts a[href^='?']")
    if (link && !e.ctrlKey && !e.metaKey && !e.shiftKey && e.button === 0) { e.preventDefault(); return go(link.getAttribute("href")) }
    const button = e.target.closest("button[data-act]")
    if (button) return button.dataset.ask ? ask(button) : act(button, button.dataset.act, JSON.parse(button.dataset.values))
  })
  root.addEventListener("input", e => {
    const form = e.target.closest("form[data-act]")
    form?.setAttribute("data-dirty", "")
    form?.removeAttribute("data-sent")     // typed on while the answer is under way: it stays, whatever the answer
  })
  root.addEventListener("submit", e => {
    const form = e.target.closest("form[data-act]")
    if (!form) return
    e.preventDefault()
    form.setAttribute("data-dirty", "")
    form.setAttribute("data-sent", "")
    const same = f => f.type !== "hidden" && (f.tagName === "SELECT" ? [...f.options].every(o => o.selected === o.defaultSelected) : f.value === f.defaultValue)
    const values = Object.fromEntries(new FormData(form))
    if (form.hasAttribute("data-changed-only")) for (const f of form.elements) if (f.name && f.name !== "for" && same(f)) delete values[f.name]
    act(form.querySelector("button[type=submit]"), form.dataset.act, values)
  })

  // --- menu, profile, colours -------------------------------------------------------------------------------------------------------
  const menu = $("#menu"), nav = $("#screens")
  function closeMenu() { nav.classList.remove("open"); menu.setAttribute("aria-expanded", "false") }
  menu.addEventListener("click", () => menu.setAttribute("aria-expanded", String(nav.classList.toggle("open"))))
  root.addEventListener("keydown", e => { if (e.key === "Escape" && nav.classList.contains("open")) { closeMenu(); menu.focus() } })
  $("#portfolio")?.addEventListener("change", e => {   // other money: another page
    location.search = `?${new URLSearchParams({ portfolio: e.target.value, at: root.dataset.at })}`
  })
  $("#profile")?.addEventListener("change", e => {
    const search = new URLSearchParams({ at: root.dataset.at, profile: e.target.value })
    go(`?${search}`)
  })
  const names = { "": "system", light: "light", dark: "dark" }, theme = $("#theme")
  function colour(name) {
    name ? html.dataset.theme = name : delete html.dataset.theme
    $("#colours").textContent = `Theme: ${names[name]}`
  }
  colour(html.dataset.theme ?? "")
  theme.addEventListener("click", () => {
    const order = ["", "light", "dark"], next = order[(order.indexOf(html.dataset.theme ?? "") + 1) % 3]
    colour(next)
    redraw()
    try { next ? localStorage.setItem("carnet-theme", next) : localStorage.removeItem("carnet-theme") } catch (e) { /* not kept, still shown */ }
  })

  function redraw() {                      // in the colours that are shown now
    for (const c of page.querySelectorAll("[data-chart][data-drawn]")) delete c.dataset.drawn
    frames()
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw)

  // --- somebody is here: only a person keeps the session, what the page asks by itself does not ------------------------------------------
  let touched = 0, pointed = ""            // when it was told last: the first touch is always told, as a page may have loaded itself anew
  const touches = ["pointerdown", "pointermove", "pointerover", "keydown", "wheel", "focus", "blur"]
  const byPerson = e => {                  // of what happens inside a report's frame only this is seen: the pointer comes, goes, or the frame takes the focus
    if (e.type === "focus" || e.type === "blur") return e.target === window           // the page itself moves the focus between its parts
    if (e.type !== "pointermove" && e.type !== "pointerover") return true
    const was = pointed
    pointed = `${e.screenX} ${e.screenY}`
    return was !== "" && was !== pointed   // a part that is written again under a pointer that rests is nobody
  }
  const here = e => {
    if (!root.isConnected) for (const kind of touches) removeEventListener(kind, here, true)
    else if (byPerson(e) && Date.now() - touched > 60000) { touched = Date.now(); fetch("/api/v1/session").catch(() => {}) }
  }
  if (!model.shell) for (const kind of touches) addEventListener(kind, here, { passive: true, capture: true })

  // --- still there? -------------------------------------------------------------------------------------------------------------------
  const beat = setInterval(async () => {
    if (!root.isConnected) return clearInterval(beat)
    if (Date.now() - heard < 12000) return
    if (Date.now() - heard < 20000) return send({ beat: true })
    root.dataset.live = "no"
    $("#banner").innerHTML = '<div class="stop"><p><b>The connection is lost.</b> The figures may be old; reconnecting.</p></div>'
    try { if ((await fetch(location.href, { cache: "no-store" })).ok) location.reload() } catch (e) { /* not yet */ }
  }, 4000)

  send({ go: Object.fromEntries(new URLSearchParams(model.shell ? "?at=today" : location.search || "?at=today")), quiet: true })
  frames()
  root.dataset.live = "yes"
}
