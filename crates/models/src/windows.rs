//! What `layer_types` and its older spellings say of each layer: whether it slides over a window,
//! or mixes positions in another way.

use formats::ConfigView;
use formats::config::MAX_DIM;

use crate::error::{ModelError, Result, clip};
use crate::guard::is_null;

/// What an absent `sliding_window` means in the families that have one.
const DEFAULT_WINDOW: usize = 4096;
/// What an absent `max_window_layers` means.
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

/// Whether an attention layer slides. The second spelling of layers that do not is that of older
/// configurations, and left out where the known ones are listed.
const SLIDING: &[(&str, bool)] = &[
    ("full_attention", false),
    ("sliding_attention", true),
    ("attention", false),
];

/// `sliding_window`: null for none, [`DEFAULT_WINDOW`] when absent.
pub(crate) fn sliding_window(config: &ConfigView<'_>) -> Result<Option<usize>> {
    sliding_window_or(config, DEFAULT_WINDOW)
}

/// `sliding_window`: null for none, `default` when absent.
pub(crate) fn sliding_window_or(config: &ConfigView<'_>, default: usize) -> Result<Option<usize>> {
    if config.has("sliding_window") {
        return Ok(config.opt_usize("sliding_window")?);
    }
    Ok((!is_null(config, "sliding_window")).then_some(default))
}

/// What `layer_types` says of each layer, in the words of `known`; `None` when there is no such
/// list.
pub(crate) fn layer_types<T: Copy>(
    config: &ConfigView<'_>,
    layers: usize,
    known: &[(&str, T)],
) -> Result<Option<Vec<T>>> {
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
    let read = |(i, kind): (usize, &&str)| match known.iter().find(|(name, _)| name == kind) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let names: Vec<_> = known.iter().take(2).map(|(name, _)| *name).collect();
            Err(ModelError::unsupported(
                config,
                format!("layer_types[{i}]"),
                format!("\"{}\"", clip(kind)),
                format!("known: {}", names.join(", ")),
            ))
        }
    };
    let meanings: Result<_> = types.iter().enumerate().map(read).collect();
    meanings.map(Some)
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
    match layer_types(config, layers, SLIDING)? {
        None => Ok((0..layers).map(|i| window.filter(|_| i >= first)).collect()),
        Some(slides) => with_window(
            config,
            slides,
            window,
            "set `use_sliding_window` to true and `sliding_window` to its length",
        ),
    }
}

/// Windows of a family in which some layers slide: those that `layer_types` says, or without such a
/// list those of which `slides` says so, given their numbers.
pub(crate) fn alternating(
    config: &ConfigView<'_>,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    let types = match layer_types(config, layers, SLIDING)? {
        Some(types) => types,
        None => (0..layers).map(slides).collect(),
    };
    with_window(config, types, window, "set `sliding_window` to its length")
}

fn with_window(
    config: &ConfigView<'_>,
    slides: Vec<bool>,
    window: Option<usize>,
    advice: &str,
) -> Result<Vec<Option<usize>>> {
    let read = |(i, slides): (usize, bool)| match (slides, window) {
        (true, None) => Err(ModelError::inconsistent(
            config.file(),
            format!("`layer_types[{i}]` is sliding_attention but there is no window; {advice}"),
        )),
        (slides, window) => Ok(window.filter(|_| slides)),
    };
    slides.into_iter().enumerate().map(read).collect()
}

/// Windows of a family in which all layers are alike; `layer_types` may only repeat that.
pub(crate) fn uniform(
    config: &ConfigView<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    if let Some(slides) = layer_types(config, layers, SLIDING)?
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
