// Shows the OpenAPI document by the tool that the page has loaded.

const url = "/api/schema?format=json";
const element = document.getElementById("api-docs");

if (window.SwaggerUIBundle) {
  window.SwaggerUIBundle({
    url,
    domNode: element,
    deepLinking: true,
    docExpansion: "none",
    presets: [window.SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
  });
} else {
  // The search would start a worker from a blob, which the policy of the pages forbids.
  window.Redoc.init(url, { disableSearch: true, nativeScrollbars: true }, element);
}
