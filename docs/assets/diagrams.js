// Mermaid draws the diagrams. Its script lies beside this one and is large: only a page with a diagram loads it.
// The theme uses the `mermaid` that it finds, and would fetch one from elsewhere if there were none.
(() => {
  const beside = new URL("mermaid.min.js", document.currentScript.src);
  let settings, loaded;

  const load = () =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = beside;
      script.onload = () => {
        // Mermaid's own now. On a phone a diagram keeps its size, so that its words can be read, and its block scrolls.
        const sized = { useMaxWidth: matchMedia("(min-width: 45em)").matches };
        // The theme colours arrows by ids of older releases.
        const themeCSS = `${settings.themeCSS} marker path { fill: var(--md-mermaid-edge-color) !important;
          stroke: var(--md-mermaid-edge-color) !important; }`;
        const sequence = { ...settings.sequence, ...sized };
        window.mermaid.initialize({ ...settings, themeCSS, sequence, flowchart: sized, state: sized });
        resolve(window.mermaid);
      };
      script.onerror = () => reject(new Error(`no ${beside}`));
      document.head.append(script);
    });

  window.mermaid = {
    initialize: (given) => {
      settings = given;
    },
    render: (...given) => (loaded ??= load()).then((mermaid) => mermaid.render(...given)),
  };
})();
