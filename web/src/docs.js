// Owns the API page's start: configures Swagger UI for this origin alone, and corrects the levels of its headings.

// Swagger UI uses h1, then h3, and an h4 at the end. A screen reader's list of headings should skip no level: sections
// of the page are level 2, and the contents of an operation follow.
function level(heading) {
  return heading.closest(".models") && heading.tagName === "H4" ? 2 : Number(heading.tagName[1]) - 1;
}
function order() {
  for (const heading of document.querySelectorAll("#api :is(h2, h3, h4, h5, h6):not([aria-level])")) {
    heading.setAttribute("aria-level", String(level(heading)));
  }
}
new MutationObserver(order).observe(document.getElementById("api"), { childList: true, subtree: true });

// Swagger UI is dark by a class, not by the system's preference; this applies the preference.
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
  // The library's default sends every document that is not on localhost to a public validator.
  validatorUrl: "none",
  // Nor may the address bar point the page, and with it a token, at somebody else's document.
  queryConfigEnabled: false,
  // A token typed here is lost with the page.
  persistAuthorization: false,
});
