//! Source text that holds all of its mutants, of which an environment variable turns on one (a
//! *mutant schema*: Untch, Offutt and Harrold, "Mutation analysis using mutant schemata", ISSTA
//! 1993). One build then serves thousands of mutants.
//!
//! What each mutant changes is taken from `cargo mutants --list --json`. Text is inserted only, so
//! that what a mutant leaves alone stays as it was. What runs at compile time can't be switched:
//! mutants in constants are left out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use serde::Deserialize;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// One change, as `cargo mutants` lists it.
#[derive(Deserialize)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    pub(crate) file: String,
    genre: Genre,
    replacement: String,
    span: Span,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

#[derive(Deserialize)]
struct Span {
    start: Place,
    end: Place,
}

/// Counted from 1, columns in characters.
#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// A file with its mutants in it.
pub(crate) struct Schema {
    pub(crate) text: String,
    /// Which mutants there is code for, and where: of one mutant, or of all that share an
    /// expression.
    pub(crate) places: Vec<(Range<usize>, Vec<u32>)>,
    /// For each of them, the number that its code says when it is reached.
    pub(crate) sites: Vec<(u32, u32)>,
}

/// Has to be the first line of the crate that has [`SWITCH`]: functions that run at compile time,
/// too, are changed at run time only.
pub(crate) const FEATURES: &str = "#![feature(core_intrinsics, const_eval_select)]";

/// Has to be in the crate: which mutant is on (`MUTANT`), and what is reached, a number a line
/// (in the file named by `MUTANT_SITES`).
pub(crate) const SWITCH: &str = r#"
#[allow(missing_docs)]
pub(crate) mod mutant_schema {
    extern crate std;
    use std::io::Write as _;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    static ON: LazyLock<u32> =
        LazyLock::new(|| std::env::var("MUTANT").ok().and_then(|id| id.parse().ok()).unwrap_or(0));
    static LOG: LazyLock<Option<std::fs::File>> = LazyLock::new(|| {
        let path = std::env::var_os("MUTANT_SITES")?;
        std::fs::File::options().create(true).append(true).open(path).ok()
    });
    static REACHED: [AtomicBool; 1 << 13] = [const { AtomicBool::new(false) }; 1 << 13];
    #[inline]
    pub(crate) const fn at(site: u32) -> u32 {
        core::intrinsics::const_eval_select((site,), never, which)
    }
    const fn never(_: u32) -> u32 {
        0
    }
    #[inline]
    fn which(site: u32) -> u32 {
        if let Some(mut log) = LOG.as_ref()
            && REACHED.get(site as usize).is_some_and(|site| !site.swap(true, Ordering::Relaxed))
        {
            let _ = log.write_all(std::format!("{site}\n").as_bytes());
        }
        *ON
    }
}
"#;

/// Puts `mutants`, with their numbers, into the file they are of.
pub(crate) fn build(source: &str, mutants: &[(u32, &Mutant)]) -> syn::Result<Schema> {
    let mut lines = vec![0];
    lines.extend(source.match_indices('\n').map(|(at, _)| at + 1));
    let offset = |place: &Place| {
        let start = lines[place.line - 1];
        let mut chars = source[start..].char_indices();
        start + chars.nth(place.column - 1).map_or(source.len() - start, |(at, _)| at)
    };
    let changes = mutants.iter().map(|&(id, mutant)| Change {
        id,
        genre: mutant.genre,
        span: offset(&mutant.span.start)..offset(&mutant.span.end),
        replacement: &mutant.replacement,
    });
    let mut writer = Writer { source, changes: changes.collect(), insertions: Vec::new(), sites: Vec::new() };
    writer.visit_file(&syn::parse_file(source)?);
    Ok(writer.assemble())
}

struct Change<'a> {
    id: u32,
    genre: Genre,
    span: Range<usize>,
    replacement: &'a str,
}

struct Insertion {
    at: usize,
    /// In the text without insertions: what these mutants change.
    whole: Range<usize>,
    text: String,
    /// Which part of `text` is whose.
    arms: Vec<(Range<usize>, u32)>,
}

struct Writer<'a> {
    source: &'a str,
    changes: Vec<Change<'a>>,
    /// Outer ones come before inner ones.
    insertions: Vec<Insertion>,
    sites: Vec<(u32, u32)>,
}

impl Writer<'_> {
    /// The mutants of this genre whose span begins there.
    fn of(&self, genre: Genre, start: usize) -> Vec<usize> {
        let is = |change: &Change| change.genre == genre && change.span.start == start;
        (0..self.changes.len()).filter(|&index| is(&self.changes[index])).collect()
    }

    /// Notes that these are reached together; the number to say.
    fn site(&mut self, group: &[usize]) -> u32 {
        let site = self.changes[group[0]].id;
        self.sites.extend(group.iter().map(|&index| (self.changes[index].id, site)));
        site
    }

    fn insert(&mut self, at: usize, whole: Range<usize>, text: String, arms: Vec<(Range<usize>, u32)>) {
        self.insertions.push(Insertion { at, whole, text, arms });
    }

    /// Chooses between an expression and what its mutants make of it.
    fn choose(&mut self, whole: Range<usize>, group: &[usize]) {
        if group.is_empty() {
            return;
        }
        let mut text = format!("(match crate::mutant_schema::at({}) {{ ", self.site(group));
        let mut arms = Vec::new();
        for &index in group {
            let Change { id, span, replacement, .. } = &self.changes[index];
            let start = text.len();
            let (before, after) = (&self.source[whole.start..span.start], &self.source[span.end..whole.end]);
            let _ = write!(text, "{id} => {{ {before} {replacement} {after} }} ");
            arms.push((start..text.len(), *id));
        }
        text.push_str("_ => { ");
        self.insert(whole.start, whole.clone(), text, arms);
        self.insert(whole.end, whole, " } })".to_owned(), Vec::new());
    }

    /// Lets a function return at once.
    fn values(&mut self, block: &syn::Block) {
        let Some(first) = block.stmts.first() else { return };
        let start = first.span().byte_range().start;
        let group = self.of(Genre::FnValue, start);
        if group.is_empty() {
            return;
        }
        let mut text = format!("match crate::mutant_schema::at({}) {{ ", self.site(&group));
        let mut arms = Vec::new();
        for index in group {
            let Change { id, replacement, .. } = &self.changes[index];
            let start = text.len();
            let _ = write!(text, "{id} => return {replacement}, ");
            arms.push((start..text.len(), *id));
        }
        text.push_str("_ => {} } ");
        let whole = start..block.span().byte_range().end - 1;
        self.insert(start, whole.clone(), text, arms);
        self.insert(whole.end, whole, String::new(), Vec::new());
    }

    fn assemble(self) -> Schema {
        let mut order: Vec<usize> = (0..self.insertions.len()).collect();
        // Where several meet, what ends there comes before what begins, and inner ones end first.
        order.sort_by_key(|&index| {
            let Insertion { at, whole, .. } = &self.insertions[index];
            let begins = *at != whole.end;
            let index = isize::try_from(index).expect("few");
            (*at, begins, if begins { index } else { -index })
        });
        let (mut text, mut done, mut places) = (String::new(), 0, Vec::new());
        let mut starts = HashMap::new();
        for index in order {
            let Insertion { at, whole, text: inserted, arms } = &self.insertions[index];
            text.push_str(&self.source[done..*at]);
            done = *at;
            let start = text.len();
            text.push_str(inserted);
            for (arm, id) in arms {
                places.push((start + arm.start..start + arm.end, vec![*id]));
            }
            let ids: Vec<u32> = arms.iter().map(|(_, id)| *id).collect();
            if *at != whole.end {
                starts
                    .entry((whole.start, whole.end))
                    .or_insert_with(Vec::new)
                    .push((start..text.len(), ids));
            } else if let Some((range, ids)) = starts.get_mut(&(whole.start, whole.end)).and_then(Vec::pop) {
                places.push((range.start..text.len(), ids));
            }
        }
        text.push_str(&self.source[done..]);
        // What has no end of its own: functions, arms.
        places.extend(starts.into_values().flatten());
        Schema { text, places, sites: self.sites }
    }
}

/// Whether it binds something, and so must stay where it is.
fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Writer<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.values(&item.block);
        self.visit_block(&item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.values(&item.block);
        self.visit_block(&item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        let Some(block) = &item.default else { return };
        self.values(block);
        self.visit_block(block);
    }

    fn visit_expr(&mut self, expr: &'ast syn::Expr) {
        let whole = expr.span().byte_range();
        match expr {
            syn::Expr::Binary(binary) if !has_let(expr) => {
                let group = self.of(Genre::BinaryOperator, binary.op.span().byte_range().start);
                self.choose(whole, &group);
            }
            syn::Expr::Unary(unary) => {
                let group = self.of(Genre::UnaryOperator, unary.op.span().byte_range().start);
                self.choose(whole, &group);
            }
            syn::Expr::Struct(of) => {
                let starts = of.fields.iter().map(|field| field.span().byte_range().start);
                let group: Vec<usize> = starts.flat_map(|start| self.of(Genre::StructField, start)).collect();
                self.choose(whole, &group);
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        let takes_rest = |arm: &syn::Arm| matches!(arm.pat, syn::Pat::Wild(_) | syn::Pat::Ident(_));
        // Without what such an arm takes there is no match.
        if !expr.arms.iter().any(takes_rest) {
            let needed = expr.arms.iter().filter(|arm| !matches!(arm.pat, syn::Pat::Guard(_)));
            let needed: Vec<usize> = needed.map(|arm| arm.span().byte_range().start).collect();
            self.changes
                .retain(|change| change.genre != Genre::MatchArm || !needed.contains(&change.span.start));
        }
        visit::visit_expr_match(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let group = self.of(Genre::MatchArm, arm.span().byte_range().start);
        let site = group.first().map(|_| self.site(&group));
        let ids: Vec<u32> = group.iter().map(|&index| self.changes[index].id).collect();
        let is_off = site.map(|site| {
            let is_off = ids.iter().map(|id| format!("crate::mutant_schema::at({site}) != {id}"));
            is_off.collect::<Vec<_>>().join(" && ")
        });
        if let syn::Pat::Guard(syn::PatGuard { guard, .. }) = &arm.pat {
            let whole = guard.span().byte_range();
            if let Some(is_off) = &is_off {
                let arms = ids.iter().map(|&id| (0..is_off.len(), id)).collect();
                self.insert(whole.start, whole.clone(), format!("{is_off} && ("), arms);
                self.insert(whole.end, whole.clone(), ")".to_owned(), Vec::new());
            }
            let group = self.of(Genre::MatchArmGuard, whole.start);
            self.choose(whole, &group);
            self.visit_expr(guard);
        } else if let Some(is_off) = &is_off {
            let pattern = arm.pat.span().byte_range();
            let arms = ids.iter().map(|&id| (0..is_off.len(), id)).collect();
            self.insert(pattern.end, pattern.end..pattern.end + 1, format!(" if {is_off}"), arms);
        }
        self.visit_expr(&arm.body);
    }

    // What is known when the program is built.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}
    fn visit_expr_repeat(&mut self, expr: &'ast syn::ExprRepeat) {
        self.visit_expr(&expr.expr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
fn f(a: u32, b: bool) -> u32 {
    match a + 1 {
        0 => 7,
        n if b && n < 3 => n,
        _ => 9,
    }
}
";

    fn mutant(genre: &str, line: usize, columns: Range<usize>, replacement: &str) -> Mutant {
        let mutant = serde_json::json!({
            "name": "", "file": "", "genre": genre, "replacement": replacement,
            "span": {
                "start": { "line": line, "column": columns.start },
                "end": { "line": line, "column": columns.end },
            },
        });
        serde_json::from_value(mutant).expect("a mutant")
    }

    /// What is left when nothing that is inserted is on is the original.
    #[test]
    fn one_text_has_all() {
        let value = Mutant {
            span: Span { start: Place { line: 2, column: 5 }, end: Place { line: 6, column: 6 } },
            ..mutant("FnValue", 2, 5..6, "1")
        };
        let mutants = [
            value,
            mutant("BinaryOperator", 2, 13..14, "-"),
            mutant("BinaryOperator", 2, 13..14, "*"),
            mutant("MatchArm", 3, 9..16, ""),
            mutant("MatchArmGuard", 4, 14..24, "true"),
            mutant("BinaryOperator", 4, 21..22, "=="),
        ];
        let mutants: Vec<(u32, &Mutant)> = (1..).zip(&mutants).collect();
        let schema = build(SOURCE, &mutants).expect("Rust");
        let text = schema.text.replace("crate::mutant_schema::", "");
        let expected = "\
fn f(a: u32, b: bool) -> u32 {
    match at(1) { 1 => return 1, _ => {} } match (match at(2) { 2 => { a  -  1 } 3 => { a  *  1 } _ => { a + 1 } }) {
        0 if at(4) != 4 => 7,
        n if (match at(5) { 5 => {  true  } _ => { b && (match at(6) { 6 => { n  ==  3 } _ => { n < 3 } }) } }) => n,
        _ => 9,
    }
}
";
        assert_eq!(text, expected);
        assert_eq!(schema.sites, [(1, 1), (2, 2), (3, 2), (4, 4), (5, 5), (6, 6)]);
        // An error of the compiler in `a * 1` is the third mutant's.
        let at = schema.text.find("a  *  1").expect("mutant");
        let around = schema.places.iter().filter(|(range, _)| range.contains(&at));
        assert_eq!(around.min_by_key(|(range, _)| range.len()).map(|(_, ids)| &ids[..]), Some(&[3][..]));
    }
}
