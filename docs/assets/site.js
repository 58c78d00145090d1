// What the theme adds to a page lacks names, and wide tables cannot be scrolled with the keyboard.
const names = {
  ".md-search": (node) => node.setAttribute("aria-label", "Search"),
  ".md-nav__container > label": (node) => node.setAttribute("aria-label", node.previousElementSibling.textContent.trim()),
  ".md-code__nav": (node) => node.setAttribute("role", "none"),
  ".md-typeset__scrollwrap": (node) => node.setAttribute("tabindex", "0"),
};

const complete = () => {
  for (const [selector, change] of Object.entries(names)) document.querySelectorAll(selector).forEach(change);
};

new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
complete();
