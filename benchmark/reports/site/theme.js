"use strict";
// Apply the theme of an earlier visit before the first paint. A page in a frame may have no storage.
const theme = {
  chosen() {
    try {
      return localStorage.getItem("synrep-theme");
    } catch {
      return null;
    }
  },
  set(name) {
    document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem("synrep-theme", name);
    } catch {
      // no storage: the theme applies to this visit only
    }
  },
  get dark() {
    const name = document.documentElement.dataset.theme;
    return name ? name === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },
};
if (["dark", "light"].includes(theme.chosen())) document.documentElement.dataset.theme = theme.chosen();
