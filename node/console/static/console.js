// Looks again every few seconds and puts the new content in place of the old; says so when nobody answers.
"use strict";

const wait = Number(document.body.dataset.refresh) * 1000;
const told = document.getElementById("told");

// Nothing that somebody writes is taken away.
function written() {
  const fields = [...document.querySelectorAll("main form input:not([type=hidden])")];
  return document.querySelector("form :focus, textarea") || fields.some((field) => field.value !== field.defaultValue);
}

async function look() {
  if (!document.hidden && !written()) {
    try {
      const answer = await fetch(location.origin + location.pathname + location.search);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.getElementById("at").textContent = page.getElementById("at").textContent;
      told.hidden = true;
    } catch {
      told.hidden = false;
    }
    document.body.classList.toggle("live", told.hidden);
  }
  setTimeout(look, wait);
}

setTimeout(look, wait);
