// The Explorer works without this script. It updates the changing part of a page, and continues long actions.
"use strict";

(() => {
  const PERIOD = 5000;
  const LONGEST = 60000;
  document.documentElement.classList.add("js");

  // The address without the message about what was done: a reload shows the message no more.
  const here = new URL(location.href);
  if (here.searchParams.has("done")) {
    here.searchParams.delete("done");
    history.replaceState(null, "", here);
  }

  // A form is submitted once.
  for (const form of document.querySelectorAll('form[method="post"]')) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.submitted) {
        event.preventDefault();
      }
      form.dataset.submitted = "yes";
    });
  }
  // The page comes back from the browser's memory, for example with the button "back".
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-submitted]")) {
      delete form.dataset.submitted;
    }
  });

  // The next step of a long action.
  const next = document.querySelector("form[data-continue]");
  if (next) {
    setTimeout(() => next.requestSubmit(), 600);
  }

  // Whether updates are on. A browser can forbid a page to remember anything.
  const remembered = () => {
    try {
      return localStorage.getItem("azsession-live");
    } catch {
      return null;
    }
  };
  const remember = (value) => {
    try {
      localStorage.setItem("azsession-live", value);
    } catch {
      // The next page begins with updates.
    }
  };

  // Updates of the changing part.
  const part = document.querySelector("[data-live]");
  const toggle = document.querySelector(".live");
  if (!part || !toggle) {
    return;
  }
  const address = new URL(here);
  address.searchParams.set("live", "1");
  let shown = null;
  let timer = 0;
  let pause = PERIOD;
  let isOn = remembered() !== "off";

  const tell = (text, isLost) => {
    toggle.textContent = text;
    toggle.classList.toggle("lost", Boolean(isLost));
    toggle.setAttribute("aria-pressed", String(isOn));
  };

  const isBusy = () => {
    const focused = document.activeElement;
    const isTyping = part.contains(focused) && /^(INPUT|TEXTAREA|SELECT)$/.test(focused.tagName);
    const selection = getSelection();
    return isTyping || (!selection.isCollapsed && part.contains(selection.anchorNode));
  };

  const show = (text) => {
    if (text === shown || isBusy()) {
      return;
    }
    const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    shown = text;
    part.innerHTML = text;
    if (focused !== null) {
      const again = [...part.querySelectorAll("a")].find((each) => each.getAttribute("href") === focused);
      (again || document.getElementById("main")).focus({ preventScroll: true });
    }
  };

  const update = async () => {
    const control = new AbortController();
    const limit = setTimeout(() => control.abort(), 30000);
    try {
      const answer = await fetch(address, { signal: control.signal, redirect: "error", credentials: "same-origin" });
      if (answer.status === 401) {
        isOn = false;
        tell("Signed out", true);
        return;
      }
      if (!answer.ok) {
        throw new Error(String(answer.status));
      }
      show(await answer.text());
      pause = PERIOD;
      tell("Live");
    } catch {
      pause = Math.min(pause * 2, LONGEST);
      tell("No connection", true);
    } finally {
      clearTimeout(limit);
    }
  };

  const plan = () => {
    clearTimeout(timer);
    if (isOn && !document.hidden) {
      timer = setTimeout(async () => {
        await update();
        plan();
      }, pause);
    }
  };

  toggle.addEventListener("click", async () => {
    isOn = !isOn;
    remember(isOn ? "on" : "off");
    tell(isOn ? "Live" : "Paused");
    pause = PERIOD;
    if (isOn) {
      await update();
    }
    plan();
  });
  document.addEventListener("visibilitychange", plan);
  tell(isOn ? "Live" : "Paused");
  plan();
})();
