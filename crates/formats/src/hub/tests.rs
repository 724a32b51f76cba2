use std::fs;

use super::*;

#[test]
fn names_are_read() {
    let parts = |text: &str| {
        let name = HubName::parse(text)?;
        assert_eq!(name.to_string(), text);
        Some((name.repository, name.revision, name.file))
    };
    let some = |text: &str| Some(text.to_string());
    assert_eq!(parts("a/b-1.5_x"), Some(("a/b-1.5_x".into(), None, None)));
    assert_eq!(
        parts("a/b@refs/pr/1"),
        Some(("a/b".into(), some("refs/pr/1"), None))
    );
    assert_eq!(
        parts("a/b:Q4_K_M"),
        Some(("a/b".into(), None, some("Q4_K_M")))
    );
    assert_eq!(
        parts("a/b@v1:sub/x.gguf"),
        Some(("a/b".into(), some("v1"), some("sub/x.gguf")))
    );
    for text in [
        "a", "/a", "a/", "a/b/c", "./a", "../a", "a/..", "a/.b", "a/b@", "a/b:", "a/b@../x",
        "a/b:../x", "a b/c", "a/b\n", "C:\\a/b", "a/b@x/", "ä/b", "-a/b",
    ] {
        assert_eq!(HubName::parse(text), None, "{text:?}");
    }
    assert_eq!(HubName::parse(&format!("a/{}", "b".repeat(129))), None);
}

#[test]
fn caches_are_those_of_the_hub() {
    let set = |names: &'static [(&str, &str)]| {
        let variable = move |name: &str| {
            let found = names.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let all = caches_from(variable, Some("/h".into()));
        all.iter()
            .map(|p| p.to_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    const OWN: &str = "/h/.cache/huggingface/hub";
    assert_eq!(set(&[]), [OWN]);
    assert_eq!(set(&[("HF_HOME", ""), ("HF_HUB_CACHE", "")]), [OWN]);
    assert_eq!(set(&[("XDG_CACHE_HOME", "/h/.cache")]), [OWN]);
    assert_eq!(set(&[("HF_HOME", "~/x")]), ["/h/x/hub", OWN]);
    assert_eq!(
        set(&[
            ("XDG_CACHE_HOME", "/x"),
            ("HF_HOME", "/home"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/new"),
        ]),
        ["/new", "/old", "/home/hub", "/x/huggingface/hub", OWN]
    );
    assert!(caches_from(|_| None, None).is_empty());
}

struct Cache(tempfile::TempDir);

impl Cache {
    fn new(files: &[&str]) -> Self {
        let cache = Self(tempfile::tempdir().unwrap());
        for file in files {
            cache.add(file, "");
        }
        cache
    }

    fn add(&self, file: &str, text: &str) {
        let path = self.0.path().join("models--a--b").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn find(&self, name: &str) -> Result<String, String> {
        let empty = self.0.path().join("none");
        let caches = [empty, self.0.path().to_path_buf()];
        let found = find(&HubName::parse(name).unwrap(), &caches).map_err(|e| e.to_string())?;
        let inside = found.strip_prefix(self.0.path().join("models--a--b/snapshots"));
        Ok(inside.unwrap().to_str().unwrap().replace('\\', "/"))
    }
}

const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn revisions_are_followed() {
    let cache = Cache::new(&["snapshots/11aa22bb33/model.safetensors"]);
    cache.add(&format!("snapshots/{HASH}/model.safetensors"), "");
    let error = cache.find("a/b").unwrap_err();
    assert!(error.contains("revision main but 0123456789ab"), "{error}");
    cache.add("refs/main", &format!("{HASH}\n"));
    cache.add("refs/pr/1", "11aa22bb33");
    assert_eq!(cache.find("a/b").unwrap(), HASH);
    assert_eq!(cache.find(&format!("a/b@{HASH}")).unwrap(), HASH);
    assert_eq!(cache.find("a/b@0123456").unwrap(), HASH);
    assert_eq!(cache.find("a/b@pr/1").unwrap(), "11aa22bb33");
    for (name, command) in [
        ("a/b@v2", "`hf download a/b --revision v2`"),
        ("a/b@012345", "--revision 012345`"),
        ("a/c", "`hf download a/c`"),
        ("a/c:Q4_0", "`hf download a/c --include \"*Q4_0*\"`"),
        ("a/c:x.gguf", "`hf download a/c x.gguf`"),
    ] {
        let error = cache.find(name).unwrap_err();
        assert!(error.contains(command), "{error}");
    }
    let error = cache.find("a/c").unwrap_err();
    assert!(error.contains(cache.0.path().to_str().unwrap()), "{error}");
    assert!(error.contains("none"), "{error}");

    cache.add("refs/main", "../../x");
    assert!(cache.find("a/b").is_err());
    cache.add("refs/main", "beef");
    assert!(cache.find("a/b").unwrap_err().contains("beef is missing"));
}

#[test]
fn a_gguf_file_is_picked() {
    let files = [
        "m-Q4_K_M.gguf",
        "m-Q4_K.gguf",
        "m.IQ4_XS.gguf",
        "mmproj-f16.gguf",
        "Q8_0/m-Q8_0-00001-of-00002.gguf",
        "Q8_0/m-Q8_0-00002-of-00002.gguf",
        "README.md",
    ];
    let paths = files.map(|f| format!("snapshots/{HASH}/{f}"));
    let cache = Cache::new(&paths.each_ref().map(String::as_str));
    cache.add("refs/main", HASH);
    for (wanted, file) in [
        ("Q4_K_M", files[0]),
        ("q4_k", files[1]),
        ("iq4_xs", files[2]),
        ("Q8_0", files[4]),
        ("m-Q4_K.gguf", files[1]),
        ("Q8_0/m-Q8_0-00001-of-00002.gguf", files[4]),
    ] {
        let found = cache.find(&format!("a/b:{wanted}")).unwrap();
        assert_eq!(found, format!("{HASH}/{file}"));
    }
    for (name, part) in [
        ("a/b:Q5_0", "no GGUF file `Q5_0`, only Q8_0/m-Q8_0"),
        ("a/b:4_XS", "no GGUF file"),
        ("a/b:mmproj-f16", "no GGUF file"),
        ("a/b", "several GGUF files fit: Q8_0/m-Q8_0"),
        ("a/b", "name one, as in a/b:NAME"),
    ] {
        let error = cache.find(name).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    // Weights in the Hub's own form come first.
    cache.add(&format!("snapshots/{HASH}/model.safetensors"), "");
    assert_eq!(cache.find("a/b").unwrap(), HASH);
    assert!(cache.find("a/b:Q4_K").is_ok());

    let cache = Cache::new(&[&format!("snapshots/{HASH}/only.gguf")]);
    cache.add("refs/main", HASH);
    assert_eq!(cache.find("a/b").unwrap(), format!("{HASH}/only.gguf"));

    let cache = Cache::new(&[&format!("snapshots/{HASH}/config.json")]);
    cache.add("refs/main", HASH);
    let error = cache.find("a/b").unwrap_err();
    assert!(
        error.contains("has no weights; get it with `hf download a/b`"),
        "{error}"
    );
}
