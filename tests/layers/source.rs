//! The files of `src`, parsed: the paths that they name, the types that they define, their length.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::slice;
use std::sync::LazyLock;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, Meta, UseTree, Visibility};

/// All files.
pub(super) struct Sources(BTreeMap<String, Source>);

/// A file.
pub(super) struct Source {
    /// Its path below the project's directory.
    pub(super) file: String,
    /// The path of its module; "" is that of `lib.rs`, and those of the programs begin with `bin`.
    pub(super) module: String,
    pub(super) text: String,
    /// Whether the word `unsafe` is in it, be it in a test.
    pub(super) has_unsafe: bool,
    contents: Contents,
}

/// What a file names and defines outside its tests.
#[derive(Default)]
struct Contents {
    /// The modules around what is visited, from the root of the crate on.
    scope: Vec<String>,
    /// Whether the crate is a program.
    program: bool,
    paths: Vec<Named>,
    /// Modules in files of their own that are declared here.
    children: Vec<String>,
    types: Vec<(String, usize)>,
    /// First and last lines of tests.
    tests: Vec<(usize, usize)>,
    /// Modules in other files that are tests.
    test_files: Vec<String>,
}

/// A path that a file names.
struct Named {
    path: Vec<String>,
    /// It leads into this crate, and is resolved: it begins at the root.
    own: bool,
    line: usize,
}

impl Sources {
    /// All of them, which are read and parsed once.
    pub(super) fn get() -> &'static Self {
        static SOURCES: LazyLock<Sources> = LazyLock::new(Sources::read);
        &SOURCES
    }

    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = BTreeMap::new();
        let mut folders = vec![root.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a directory of sources") {
                let path = entry.expect("an entry of a directory").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let file = path.strip_prefix(root).expect("a path below the root");
                    let text = fs::read_to_string(&path).expect("a source");
                    let source = Source::parse(file.to_str().expect("a name in UTF-8"), text);
                    files.insert(source.module.clone(), source);
                }
            }
        }
        let tests: Vec<_> = files
            .values()
            .flat_map(|source| source.contents.test_files.clone())
            .collect();
        for test in &tests {
            assert!(files.remove(test).is_some(), "{test} is no file");
        }
        assert!(files.len() > 80, "only {} files were found", files.len());
        Self(files)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Source> {
        self.0.values()
    }

    /// The modules of the library: neither its root nor the programs.
    pub(super) fn library(&self) -> impl Iterator<Item = &Source> {
        let inner = |source: &&Source| !source.module.is_empty() && !source.contents.program;
        self.0.values().filter(inner)
    }

    pub(super) fn has(&self, module: &str) -> bool {
        self.0.contains_key(module)
    }

    /// `src/lib.rs`.
    pub(super) fn root(&self) -> &Source {
        &self.0[""]
    }

    /// The module whose file defines or exports what a path from the root of a crate names; not the root.
    pub(super) fn file_of(&self, path: &str) -> Option<&str> {
        let ends = path.match_indices("::").map(|(end, _)| end);
        let ends = ends.chain([path.len()]);
        let modules = ends.filter_map(|end| self.0.get_key_value(&path[..end]));
        modules.last().map(|(module, _)| module.as_str())
    }
}

impl Source {
    /// Parses the text of a file below `src`.
    pub(super) fn parse(file: &str, text: String) -> Self {
        let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
        let module = inner.replace('/', "::");
        let module = module
            .trim_end_matches("::mod")
            .trim_end_matches("::main")
            .to_owned();
        let module = match module.as_str() {
            "lib" => String::new(),
            _ => module,
        };
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let parts = module.split("::").filter(|part| !part.is_empty());
        let mut contents = Contents {
            scope: parts.map(str::to_owned).collect(),
            program: module.starts_with("bin"),
            ..Contents::default()
        };
        contents.visit_file(&parsed);
        contents.resolve();
        Self {
            file: file.to_owned(),
            has_unsafe: has_word(text.parse().expect("tokens"), "unsafe"),
            module,
            text,
            contents,
        }
    }

    /// Paths into this crate, from its root on, and their lines.
    pub(super) fn crate_paths(&self) -> impl Iterator<Item = (String, usize)> {
        let own = self.contents.paths.iter().filter(|named| named.own);
        own.map(|named| (named.path.join("::"), named.line))
    }

    /// The lines of paths into another crate.
    pub(super) fn external_paths(&self, name: &str) -> impl Iterator<Item = usize> {
        let paths = self.contents.paths.iter().filter(|named| !named.own);
        let paths = paths.filter(move |named| named.path[0] == name);
        paths.map(|named| named.line)
    }

    /// The types and traits that it defines, and their lines.
    pub(super) fn types(&self) -> impl Iterator<Item = (String, usize)> {
        self.contents.types.iter().cloned()
    }

    /// How many lines are neither blank, nor comments, nor part of tests.
    pub(super) fn lines_of_code(&self) -> usize {
        let tests: BTreeSet<_> = self
            .contents
            .tests
            .iter()
            .flat_map(|(first, last)| *first..=*last)
            .collect();
        let lines = self.text.lines().enumerate().filter(|(index, line)| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with("//") && !tests.contains(&(index + 1))
        });
        lines.count()
    }
}

impl Contents {
    /// Adds a path as it is written.
    fn add(&mut self, path: &[Ident]) {
        let line = path[0].span().start().line;
        let mut names: VecDeque<_> = path.iter().map(ToString::to_string).collect();
        let mut scope = self.scope.clone();
        let mut own = true;
        match names[0].as_str() {
            "crate" => scope.truncate(if self.program { 2 } else { 0 }),
            "self" => {}
            "super" => {
                while names.get(1).is_some_and(|name| name == "super") {
                    names.pop_front();
                    scope.pop();
                }
                scope.pop();
            }
            _ => own = false,
        }
        if own {
            names.pop_front();
            scope.extend(names);
        } else {
            scope = names.into();
        }
        self.paths.push(Named {
            path: scope,
            own,
            line,
        });
    }

    /// Adds the paths of a `use`, or of a part of one below a path.
    fn add_tree(&mut self, tree: &UseTree, above: &mut Vec<Ident>) {
        match tree {
            UseTree::Path(path) => {
                above.push(path.ident.clone());
                self.add_tree(&path.tree, above);
                above.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, above);
                }
            }
            UseTree::Name(name) if name.ident == "self" => self.add(above),
            UseTree::Rename(rename) if rename.ident == "self" => self.add(above),
            UseTree::Name(name) => {
                self.add(&[above.as_slice(), slice::from_ref(&name.ident)].concat())
            }
            UseTree::Rename(rename) => {
                self.add(&[above.as_slice(), slice::from_ref(&rename.ident)].concat());
            }
            UseTree::Glob(_) => self.add(above),
        }
    }

    /// Adds the paths with `::` among the tokens of a macro, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 || path.is_empty() => path.push(ident),
                TokenTree::Ident(ident) => {
                    self.end_path(&mut path);
                    path.push(ident);
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    self.add_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end_path(&mut path),
            }
            colons = 0;
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<Ident>) {
        if path.len() > 1 {
            self.add(path);
        }
        path.clear();
    }

    /// Completes what needs all declarations: paths that begin with a child of the module, and the module `program`, which
    /// the programs share.
    fn resolve(&mut self) {
        for named in &mut self.paths {
            if !named.own && self.children.contains(&named.path[0]) {
                named.own = true;
                named.path.splice(0..0, self.scope.iter().cloned());
            }
            if named.own && self.program && named.path.get(2).is_some_and(|part| part == "program")
            {
                named.path.remove(1);
            }
        }
    }

    /// Whether these attributes make something a test; `item` is then left out.
    fn skips(&mut self, attributes: &[Attribute], item: &impl Spanned) -> bool {
        let test = attributes.iter().any(is_test);
        if test {
            let span = item.span();
            self.tests.push((span.start().line, span.end().line));
        }
        test
    }
}

fn has_word(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Group(group) => has_word(group.stream(), word),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// Whether an attribute is `cfg(test)` or `cfg(all(test, …))`.
fn is_test(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'a> Visit<'a> for Contents {
    fn visit_item(&mut self, item: &'a Item) {
        if self.skips(attributes(item), item) {
            if let Item::Mod(module) = item
                && module.content.is_none()
            {
                let path = [self.scope.as_slice(), &[module.ident.to_string()]].concat();
                self.test_files.push(path.join("::"));
            }
            return;
        }
        let defined = match item {
            Item::Enum(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        if let Some(name) = defined {
            let line = name.span().start().line;
            self.types.push((name.to_string(), line));
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'a ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            _ => &[],
        };
        if !self.skips(attributes, item) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        let name = module.ident.to_string();
        if module.content.is_none() {
            self.children.push(name);
            return;
        }
        self.scope.push(name);
        visit::visit_item_mod(self, module);
        self.scope.pop();
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.add_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            let names: Vec<_> = path
                .segments
                .iter()
                .map(|part| part.ident.clone())
                .collect();
            self.add(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'a Macro) {
        self.visit_path(&invocation.path);
        self.add_tokens(invocation.tokens.clone());
    }

    /// `pub(in path)` imports nothing.
    fn visit_visibility(&mut self, _: &'a Visibility) {}
}
