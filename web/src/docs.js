// Owns the API page's start: sets Swagger UI up to talk to this origin and nobody else, and puts its headings in order.

// Swagger UI begins with h1, goes on with h3 and has an h4 at the end beside it. A screen reader's list of headings is
// to have no holes: parts of the page are of level 2, what an operation has inside follows.
function level(heading) {
  return heading.closest(".models") && heading.tagName === "H4" ? 2 : Number(heading.tagName[1]) - 1;
}
function order() {
  for (const heading of document.querySelectorAll("#api :is(h2, h3, h4, h5, h6):not([aria-level])")) {
    heading.setAttribute("aria-level", String(level(heading)));
  }
}
new MutationObserver(order).observe(document.getElementById("api"), { childList: true, subtree: true });

// Swagger UI is dark by a class, not by the system's wish; this carries the wish over.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 4,
  displayRequestDuration: true,
  // The library's default asks a public validator about every document that is not on localhost.
  validatorUrl: "none",
  // Nor may the address bar point the page, and with it a token, at somebody else's document.
  queryConfigEnabled: false,
  // A token typed here is gone with the page.
  persistAuthorization: false,
});
