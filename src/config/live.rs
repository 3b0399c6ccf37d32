//! The configuration file of a running server, and changes of single sites that are in force but not in the file.
//!
//! A change is checked like a file: as the whole text that would be in force. It lasts until the file is loaded again,
//! unless it is persisted. Then the file gets the same change, and nothing else: not other changes that are not
//! persisted, and never at the cost of a comment, unless that was asked for.
//!
//! Called by the threads of reloads and commands, one at a time. Only this module writes a configuration file.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::edit::{EditError, Edited, SiteEdit, edit, entry, included_entry};
use super::problem::{Note, Problem, Problems};
use super::types::Config;
use super::{Inspection, Overrides, check, include, read, unpersisted, value};

/// The configuration file of a running server.
#[derive(Debug)]
pub struct LiveConfig {
    file: PathBuf,
    overrides: Overrides,
    /// The text of the file when it was loaded.
    loaded: String,
    /// The text that is in force.
    current: String,
    /// The sites that differ from the file.
    unpersisted: BTreeSet<String>,
    /// The files that `include` names, with their texts in force.
    included: Vec<(PathBuf, String)>,
}

/// A checked configuration, and the text that it was read from.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// Notes about it.
    pub notes: Vec<Note>,
    text: String,
    included: Vec<(PathBuf, String)>,
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EditOptions {
    /// Whether it is also written to the file.
    pub persist: bool,
    /// Whether comments in the changed lines of the file may be lost.
    pub drop_comments: bool,
}

/// A change that was checked and can be put into force.
#[derive(Debug)]
pub struct PreparedEdit {
    /// The configuration with the change.
    pub loaded: LoadedConfig,
    /// Whether the site is new.
    pub added: bool,
    site: String,
    /// The new text of the file, if the change is persisted.
    file: Option<String>,
}

/// Why a change cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveError {
    /// There is no such site.
    NoSite(EditError),
    /// The change itself is wrong: all problems, one a line.
    Invalid(String),
    /// It cannot be persisted.
    File(String),
}

impl LiveConfig {
    /// Reads a file before a start, and inspects the files that it names. `changes`: those of a process that this one follows
    /// ([`LiveConfig::changes`]).
    ///
    /// # Errors
    /// All problems in it, or that the changes do not fit it.
    pub fn open(
        file: &Path,
        changes: Option<&str>,
        overrides: &Overrides,
        inspection: &Inspection,
    ) -> Result<(Self, LoadedConfig), Problems> {
        let loaded = LoadedConfig::read(file, overrides, Some(inspection))?;
        let mut live = Self {
            file: file.to_owned(),
            overrides: overrides.clone(),
            loaded: loaded.text.clone(),
            current: loaded.text.clone(),
            unpersisted: BTreeSet::new(),
            included: loaded.included.clone(),
        };
        let Some(changes) = changes else {
            return Ok((live, loaded));
        };
        let misfit = |sites: &BTreeSet<String>, why: &dyn fmt::Display| {
            let sites: Vec<_> = sites.iter().map(String::as_str).collect();
            let sites = sites.join(", ");
            let message = format!(
                "does not fit the changes of {sites} that are in force and not in the file; reload it to drop them: {why}"
            );
            Problems::one(file, None, message)
        };
        let applied = unpersisted::apply(&live.loaded, changes);
        let (text, sites) = applied.map_err(|(sites, why)| misfit(&sites, &why))?;
        let checked = check::text(&text, file, overrides, Some(inspection));
        let (config, notes) =
            checked.map_err(|problems| misfit(&sites, &problems.without_lines()))?;
        live.current.clone_from(&text);
        live.unpersisted = sites;
        let included = live.included.clone();
        let loaded = LoadedConfig {
            config,
            notes,
            text,
            included,
        };
        Ok((live, loaded))
    }

    /// The changes that are in force and not in the file, for [`LiveConfig::open`] of a process that follows this one.
    pub fn changes(&self) -> Option<String> {
        unpersisted::changes(&self.current, &self.unpersisted)
    }

    /// Reads the file as it is now, inspects the files that it names, and changes nothing.
    ///
    /// # Errors
    /// All problems in it.
    pub fn inspect(&self, inspection: &Inspection) -> Result<LoadedConfig, Problems> {
        LoadedConfig::read(&self.file, &self.overrides, Some(inspection))
    }

    /// Reads the file as it is now, and changes nothing.
    ///
    /// # Errors
    /// All problems in it.
    pub fn load(&self) -> Result<LoadedConfig, Problems> {
        LoadedConfig::read(&self.file, &self.overrides, None)
    }

    /// Notes that a configuration from [`LiveConfig::load`] is in force now. Returns the sites whose changes are lost.
    pub fn set_loaded(&mut self, loaded: &LoadedConfig) -> Vec<String> {
        self.loaded.clone_from(&loaded.text);
        self.current.clone_from(&loaded.text);
        self.included.clone_from(&loaded.included);
        std::mem::take(&mut self.unpersisted).into_iter().collect()
    }

    /// The sites that differ from the file.
    pub fn unpersisted(&self) -> impl Iterator<Item = &str> {
        self.unpersisted.iter().map(String::as_str)
    }

    /// The text that is in force: as it is, or the entry of one site, which may stand in a file that `include` names.
    ///
    /// # Errors
    /// [`LiveError::NoSite`]
    pub fn show(&self, site: Option<&str>) -> Result<String, LiveError> {
        match site {
            None => Ok(self.current.clone()),
            Some(site) => entry(&self.current, site).or_else(|error| match self.included(site) {
                Some((_, entry)) => Ok(entry),
                None => Err(error.into()),
            }),
        }
    }

    /// Checks a change of a site.
    ///
    /// # Errors
    /// Why it cannot be made. Nothing has changed.
    pub fn prepare(
        &self,
        site: &str,
        change: SiteEdit<'_>,
        options: EditOptions,
    ) -> Result<PreparedEdit, LiveError> {
        if let Some((file, _)) = self.included(site)
            && entry(&self.current, site).is_err()
        {
            let file = file.display();
            return Err(LiveError::File(format!(
                "site {site} stands in {file}, a file of include; edit it there and reload"
            )));
        }
        let edited = edit(&self.current, site, change)?;
        let loaded = self.check(&edited, change)?;
        let file = match options.persist {
            true => Some(self.prepare_file(site, change, options)?),
            false => None,
        };
        Ok(PreparedEdit {
            loaded,
            added: edited.added,
            site: site.to_ascii_lowercase(),
            file,
        })
    }

    /// Writes the file of a change that is persisted, beside the old one. Call it before the change is put into force.
    ///
    /// # Errors
    /// [`LiveError::File`]
    pub fn write(&self, prepared: &PreparedEdit) -> Result<Option<NewFile>, LiveError> {
        let Some(text) = &prepared.file else {
            return Ok(None);
        };
        let path = self.path();
        let written = NewFile::write(&path, text);
        let failed = |error| LiveError::File(format!("{}: {error}", self.file.display()));
        written.map(Some).map_err(failed)
    }

    /// Notes that a change is in force, and puts its file in the place of the old one.
    ///
    /// # Errors
    /// [`LiveError::File`]: the change is in force, but not persisted.
    pub fn commit(
        &mut self,
        prepared: PreparedEdit,
        file: Option<NewFile>,
    ) -> Result<(), LiveError> {
        self.current = prepared.loaded.text;
        self.included = prepared.loaded.included;
        match (prepared.file, file) {
            (Some(text), Some(file)) => {
                if let Err(error) = file.put_in_place() {
                    self.unpersisted.insert(prepared.site);
                    let name = self.file.display();
                    return Err(LiveError::File(format!(
                        "{name}: {error}; the change is in force until the next reload"
                    )));
                }
                self.loaded = text;
                self.unpersisted.remove(&prepared.site);
            }
            _ => {
                self.unpersisted.insert(prepared.site);
            }
        }
        Ok(())
    }

    /// The file that `include` names and that has this site, and the site's entry.
    fn included(&self, site: &str) -> Option<(&Path, String)> {
        let mut files = self.included.iter();
        files.find_map(|(file, text)| Some((file.as_path(), included_entry(text, site)?)))
    }

    fn path(&self) -> PathBuf {
        value::absolute(self.overrides.directory.as_deref(), &self.file)
    }

    /// The text of the file with the change and nothing else.
    fn prepare_file(
        &self,
        site: &str,
        change: SiteEdit<'_>,
        options: EditOptions,
    ) -> Result<String, LiveError> {
        let name = self.file.display();
        let refused = |why: String| Err(LiveError::File(format!("{name}: {why}")));
        let now = read(&self.file, self.overrides.directory.as_deref())
            .map_err(|problems| LiveError::File(problems.to_string()))?;
        if now != self.loaded {
            return refused("changed since it was loaded; reload it first".to_owned());
        }
        let edited = match edit(&now, site, change) {
            Err(EditError::NoSite(_)) => {
                return refused(format!(
                    "has no site {site}, which was set without being persisted; put the whole entry"
                ));
            }
            edited => edited?,
        };
        if !edited.keeps_text {
            return refused(
                "map is written in a way that cannot be changed without losing the rest of the text; write it as a \
                 list with a dash for each site, or edit the file and reload it"
                    .to_owned(),
            );
        }
        if let Some(line) = edited.comment.filter(|_| !options.drop_comments) {
            return Err(LiveError::File(format!(
                "{name}:{line}: has a comment that would be lost; edit the file and reload it, or ask for it with \
                 comments=drop"
            )));
        }
        self.check(&edited, change)?;
        Ok(edited.text)
    }

    /// Checks a whole text after a change.
    fn check(&self, edited: &Edited, change: SiteEdit<'_>) -> Result<LoadedConfig, LiveError> {
        let read = Config::from_yaml(&edited.text, &self.file, &self.overrides);
        let (config, notes) = read.map_err(|Problems(problems)| {
            let closing = Problems(problems.clone()).closing();
            let problems = problems
                .into_iter()
                .map(|problem| relative(problem, edited, change));
            let mut text: Vec<_> = problems.map(|problem| problem.to_string()).collect();
            text.push(closing);
            LiveError::Invalid(text.join("\n"))
        })?;
        let directory = self.overrides.directory.as_deref();
        Ok(LoadedConfig {
            config,
            notes,
            included: include::files(&edited.text, &self.file, directory),
            text: edited.text.clone(),
        })
    }
}

impl LoadedConfig {
    fn read(
        file: &Path,
        overrides: &Overrides,
        inspection: Option<&Inspection>,
    ) -> Result<Self, Problems> {
        let text = read(file, overrides.directory.as_deref())?;
        let (config, notes) = check::text(&text, file, overrides, inspection)?;
        let included = include::files(&text, file, overrides.directory.as_deref());
        Ok(Self {
            config,
            notes,
            text,
            included,
        })
    }
}

/// Names the line of a problem in the change instead of the line in the resulting text, which the caller does not have.
fn relative(mut problem: Problem, edited: &Edited, change: SiteEdit<'_>) -> Problem {
    if !edited.keeps_text {
        problem.line = None;
        return problem;
    }
    let Some(line) = problem.line.filter(|line| edited.lines.contains(line)) else {
        return problem;
    };
    let as_written = |body: &str| body.trim_end().lines().count() == edited.lines.len();
    problem.line = match change {
        SiteEdit::Put(body) if as_written(body) => Some(line - edited.lines.start + 1),
        _ => None,
    };
    problem.file = PathBuf::from("entry");
    problem
}

/// A file that was written beside the one that it is to replace.
#[derive(Debug)]
pub struct NewFile {
    temporary: PathBuf,
    path: PathBuf,
    placed: bool,
}

impl NewFile {
    fn write(path: &Path, text: &str) -> io::Result<Self> {
        // A link stays a link.
        let path = fs::canonicalize(path)?;
        let before = fs::metadata(&path)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = path.with_file_name(name);
        // One that an interrupted write has left is of no use.
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        let new = Self {
            temporary,
            path,
            placed: false,
        };
        file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            chown(&new.temporary, Some(before.uid()), Some(before.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(new)
    }

    fn put_in_place(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl From<EditError> for LiveError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::NoSite(_) => Self::NoSite(error),
            error => Self::Invalid(error.to_string()),
        }
    }
}

impl fmt::Display for LiveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSite(error) => error.fmt(out),
            Self::Invalid(why) | Self::File(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for LiveError {}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
cluster_port: 80
map:
  - incoming: a.example
    outgoing: 127.0.0.1:1000 # kept
  - {incoming: b.example, outgoing: '127.0.0.1:2000'}
";

    fn opened(directory: &Path, text: &str) -> LiveConfig {
        fs::write(directory.join("s.yml"), text).unwrap();
        let overrides = Overrides {
            directory: Some(directory.to_owned()),
            ..Overrides::default()
        };
        let inspection = Inspection {
            certificate: |_, _| Ok(()),
            authorities: |_| Ok(()),
            revoked: |_, _| Ok(()),
        };
        let opened = LiveConfig::open("s.yml".as_ref(), None, &overrides, &inspection);
        opened.unwrap().0
    }

    const PERSIST: EditOptions = EditOptions {
        persist: true,
        drop_comments: false,
    };

    fn make(
        live: &mut LiveConfig,
        site: &str,
        change: SiteEdit<'_>,
        options: EditOptions,
    ) -> Config {
        let prepared = live
            .prepare(site, change, options)
            .unwrap_or_else(|error| panic!("{error}"));
        let config = prepared.loaded.config.clone();
        let file = live.write(&prepared).unwrap();
        live.commit(prepared, file).unwrap();
        config
    }

    #[test]
    fn changes_are_lost_at_a_reload_unless_persisted() {
        let directory = tempfile::tempdir().unwrap();
        let file = || fs::read_to_string(directory.path().join("s.yml")).unwrap();
        let mut live = opened(directory.path(), FILE);
        let config = make(
            &mut live,
            "b.example",
            SiteEdit::Merge("timeout: 3"),
            EditOptions::default(),
        );
        assert_eq!(config.sites[1].timeout.as_secs(), 3);
        assert_eq!(live.unpersisted().collect::<Vec<_>>(), ["b.example"]);
        // Persisting another change leaves it in force, and out of the file.
        let config = make(
            &mut live,
            "c.example",
            SiteEdit::Put("outgoing: 127.0.0.1:3000"),
            PERSIST,
        );
        assert_eq!(
            (config.sites.len(), config.sites[1].timeout.as_secs()),
            (3, 3)
        );
        assert_eq!(
            file(),
            format!("{FILE}  - incoming: c.example\n    outgoing: 127.0.0.1:3000\n")
        );
        assert!(live.show(Some("b.example")).unwrap().contains("timeout: 3"));
        assert!(live.show(None).unwrap().contains("c.example"));
        let loaded = live.load().unwrap();
        assert_eq!(live.set_loaded(&loaded), ["b.example"]);
        assert!(live.set_loaded(&loaded).is_empty());
        assert!(!live.show(None).unwrap().contains("timeout"));
        make(&mut live, "c.example", SiteEdit::Remove, PERSIST);
        assert_eq!(file(), FILE);
    }

    #[test]
    fn a_change_is_refused_as_a_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let live = opened(directory.path(), FILE);
        let check = |site: &str, change: SiteEdit<'_>, options, message: &str| {
            let error = live.prepare(site, change, options).unwrap_err().to_string();
            assert_eq!(error, message, "{change:?}");
            assert_eq!(live.show(None).unwrap(), FILE);
        };
        check(
            "c.example",
            SiteEdit::Put("incoming: c.example\noutgoing: 127.0.0.1:1\ndocrot: x"),
            PERSIST,
            "entry:3: map[3] (c.example): unknown key \"docrot\"; did you mean \"docroot\"?\n1 problem",
        );
        check(
            "a.example",
            SiteEdit::Merge("timeout: soon"),
            PERSIST,
            "entry: map[1] (a.example): timeout \"soon\": write seconds, or 500ms, 30s, 5m\n1 problem",
        );
        check(
            "a.example",
            SiteEdit::Merge("outgoing: 127.0.0.1:3"),
            PERSIST,
            "s.yml:4: has a comment that would be lost; edit the file and reload it, or ask for it with comments=drop",
        );
        let none = "no entry of map has the name \"none\"";
        check("none", SiteEdit::Remove, PERSIST, none);
        assert_eq!(live.show(Some("none")).unwrap_err().to_string(), none);
        let dropped = EditOptions {
            drop_comments: true,
            ..PERSIST
        };
        let change = SiteEdit::Merge("outgoing: 127.0.0.1:3");
        assert!(live.prepare("a.example", change, dropped).is_ok());
        fs::write(directory.path().join("s.yml"), format!("{FILE}\n")).unwrap();
        check(
            "b.example",
            SiteEdit::Merge("timeout: 3"),
            PERSIST,
            "s.yml: changed since it was loaded; reload it first",
        );
    }

    #[test]
    fn sites_of_included_files_are_shown_and_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sites")).unwrap();
        let site = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let own = "incoming: [own.example, other.example]\noutgoing: 127.0.0.1:5 # mine\n";
        site("sites/own.yml", own);
        site(
            "sites/two.yml",
            "- {incoming: one.example, outgoing: '127.0.0.1:6'}\n- {incoming: two.example, outgoing: '127.0.0.1:7'}\n",
        );
        let mut live = opened(directory.path(), &format!("include: sites/*.yml\n{FILE}"));
        for (name, part) in [
            ("OTHER.example", "127.0.0.1:5"),
            ("two.example", "127.0.0.1:7"),
        ] {
            let shown = live.show(Some(name)).unwrap();
            assert!(shown.contains(part), "{shown}");
        }
        for change in [
            SiteEdit::Merge("timeout: 3"),
            SiteEdit::Put("outgoing: 127.0.0.1:8"),
            SiteEdit::Remove,
        ] {
            for options in [PERSIST, EditOptions::default()] {
                let error = live.prepare("other.example", change, options).unwrap_err();
                assert_eq!(
                    error,
                    LiveError::File("site other.example stands in sites/own.yml, a file of include; edit it there and reload".to_owned())
                );
            }
        }
        // Others are changed as ever; what is shown is what is in force.
        site("sites/own.yml", &own.replace(":5", ":9"));
        assert!(live.show(Some("own.example")).unwrap().contains(":5"));
        make(
            &mut live,
            "b.example",
            SiteEdit::Merge("timeout: 3"),
            PERSIST,
        );
        assert!(live.show(Some("own.example")).unwrap().contains(":9"));
        let error = live.show(Some("none.example")).unwrap_err();
        assert!(matches!(error, LiveError::NoSite(_)));
    }

    #[test]
    fn references_stay_references() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("secret"), "open sesame\n").unwrap();
        let list = FILE.replace("2000'}", "2000', key: '${file:secret}'}");
        let flow = "{cluster_port: 80, map: [{incoming: b.example, outgoing: '127.0.0.1:1', key: '${file:secret}'}]}";
        for (text, persists) in [(list.as_str(), true), (flow, false)] {
            let mut live = opened(directory.path(), text);
            let options = EditOptions {
                persist: persists,
                drop_comments: true,
            };
            let change =
                SiteEdit::Merge("timeout: 3\nresponse_headers: {set: {X-Key: '${file:secret}'}}");
            let config = make(&mut live, "b.example", change, options);
            let site = config.sites.iter().find(|site| site.name == "b.example");
            assert_eq!(site.unwrap().keys, ["open sesame"]);
            for shown in [live.show(None), live.show(Some("b.example"))] {
                let shown = shown.unwrap();
                assert_eq!(shown.matches("${file:secret}").count(), 2, "{shown}");
                assert!(!shown.contains("sesame"), "{shown}");
            }
            let file = fs::read_to_string(at("s.yml")).unwrap();
            assert_eq!(
                file.matches("${file:secret}").count(),
                if persists { 2 } else { 1 }
            );
            assert!(!file.contains("sesame"), "{file}");
            for wrong in [
                "timeout: '${file:secret}'",
                "'${file:secret}': 1\nredirect: '${file:secret}'",
            ] {
                let error = live.prepare("b.example", SiteEdit::Merge(wrong), options);
                let error = error.unwrap_err().to_string();
                assert!(
                    error.contains("${file:secret}") && !error.contains("sesame"),
                    "{error}"
                );
            }
            let changes = live.changes();
            assert!(changes.is_none_or(|changes| !changes.contains("sesame")));
        }
    }

    #[test]
    fn files_keep_their_mode_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut live = opened(directory.path(), FILE);
        fs::rename(at("s.yml"), at("real.yml")).unwrap();
        std::os::unix::fs::symlink("real.yml", at("s.yml")).unwrap();
        fs::set_permissions(at("real.yml"), fs::Permissions::from_mode(0o640)).unwrap();
        // What an interrupted write has left.
        fs::write(at("real.yml.new"), "half").unwrap();
        make(&mut live, "b.example", SiteEdit::Remove, PERSIST);
        assert!(fs::symlink_metadata(at("s.yml")).unwrap().is_symlink());
        assert_eq!(fs::metadata(at("real.yml")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        let flow = "{cluster_port: 80, map: [{incoming: a, outgoing: '127.0.0.1:1'}]}";
        let live = opened(directory.path(), flow);
        let error = live
            .prepare("a", SiteEdit::Merge("timeout: 1"), PERSIST)
            .unwrap_err();
        assert!(
            error.to_string().contains("map is written in a way"),
            "{error}"
        );
        assert!(
            live.prepare("a", SiteEdit::Merge("timeout: 1"), EditOptions::default())
                .is_ok()
        );
    }
}
