//! Which layers attend through a sliding window, from `layer_types` and its older spellings.

use formats::ConfigView;
use formats::config::MAX_DIM;

use crate::error::{ModelError, Result, clip};
use crate::guard::is_null;

/// What an absent `sliding_window` means in the families that have one.
const DEFAULT_WINDOW: usize = 4096;
/// What an absent `max_window_layers` means.
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

/// `sliding_window`: null for none, [`DEFAULT_WINDOW`] when absent.
pub(crate) fn sliding_window(config: &ConfigView<'_>) -> Result<Option<usize>> {
    if config.has("sliding_window") {
        return Ok(config.opt_usize("sliding_window")?);
    }
    Ok((!is_null(config, "sliding_window")).then_some(DEFAULT_WINDOW))
}

/// Per layer, whether `layer_types` says that it slides; `None` when there is no such list.
fn layer_types(config: &ConfigView<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = config.opt_strs("layer_types")? else {
        return Ok(None);
    };
    if types.len() != layers {
        return Err(ModelError::inconsistent(
            config.file(),
            format!(
                "`layer_types` has {} entries for {layers} layers (`num_hidden_layers`); wanted one each",
                types.len()
            ),
        ));
    }
    let slides = |(i, kind): (usize, &&str)| match *kind {
        // The second spelling is that of older configurations.
        "full_attention" | "attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(ModelError::unsupported(
            config,
            format!("layer_types[{i}]"),
            format!("\"{}\"", clip(other)),
            "known: full_attention, sliding_attention",
        )),
    };
    types
        .iter()
        .enumerate()
        .map(slides)
        .collect::<Result<_>>()
        .map(Some)
}

/// Windows of a family in which each layer may differ: `layer_types` where it is given, else the
/// layers from `max_window_layers` on. Nothing slides unless `use_sliding_window` is true.
pub(crate) fn per_layer(config: &ConfigView<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = match config.opt_bool("use_sliding_window")? {
        Some(true) => sliding_window(config)?,
        _ => None,
    };
    let first = config
        .opt_usize_in("max_window_layers", 0..=MAX_DIM)?
        .unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
    match layer_types(config, layers)? {
        None => Ok((0..layers).map(|i| window.filter(|_| i >= first)).collect()),
        Some(slides) => slides
            .into_iter()
            .enumerate()
            .map(|(i, slides)| match (slides, window) {
                (true, None) => Err(ModelError::inconsistent(
                    config.file(),
                    format!(
                        "`layer_types[{i}]` is sliding_attention but there is no window; set `use_sliding_window` to true and `sliding_window` to its length"
                    ),
                )),
                (slides, window) => Ok(window.filter(|_| slides)),
            })
            .collect(),
    }
}

/// Windows of a family in which all layers are alike; `layer_types` may only repeat that.
pub(crate) fn uniform(
    config: &ConfigView<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    if let Some(slides) = layer_types(config, layers)?
        && let Some(i) = slides.iter().position(|s| *s != window.is_some())
    {
        let kind = if slides[i] {
            "sliding_attention"
        } else {
            "full_attention"
        };
        return Err(ModelError::unsupported(
            config,
            format!("layer_types[{i}]"),
            format!("\"{kind}\""),
            match window {
                Some(w) => format!("all layers of this family slide over `sliding_window` = {w}"),
                None => "no layer of this family slides here".to_string(),
            },
        ));
    }
    Ok(vec![window; layers])
}
